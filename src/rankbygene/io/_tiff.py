"""Levels of a TIFF slide as lazy arrays, and the size of its pixels."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import tifffile
import zarr

from rankbygene._reading import reading
from rankbygene.data.slides._images import over_white
from rankbygene.errors import InputValueError

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger("rankbygene")

# Along x and y, as the file has them: numbers to be checked, or text that is none.
PixelSize = tuple[Any, Any]

# Pixels; the longest sides of slides are a quarter of it.
_LARGEST_SIDE = 1 << 21
ORIENTATION = 274  # tag of TIFF and of EXIF
# Whether rows are columns, then the steps along y and x.
_ORIENTATIONS = {
    1: (False, 1, 1),
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}
# Stored tiles are small, and each chunk has a price of its own; this many bytes are read together.
_CHUNK_BYTES = 1 << 22
# The resolution of TIFF is often that of a printer: 1200 dots per inch are 21 um.
_LARGEST_PIXEL_UM = 20.0
# A picture with more than this share of the largest one's pixels could be the slide as well.
_SCENE = 0.25
_ALPHA = {tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA}
_UM_PER_UNIT = {
    **dict.fromkeys(("\N{MICRO SIGN}m", "\N{GREEK SMALL LETTER MU}m", "um", "\\u00b5m"), 1.0),
    **dict.fromkeys(("micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("in", "inch", "inches", '"'), 25_400.0),
    **{"nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6},
}


@dataclass(frozen=True, eq=False)
class Pyramid:
    """An opened slide.

    Parameters
    ----------
    levels
        Lazy arrays ``[3, y, x]``, finest first.
    um_per_px
        Micrometres per pixel of the finest level along x and y, where the file tells; not checked.
    source
        Where that is written in the file, or where it was looked for in vain.
    orientation
        How the picture lies in the file, as the tag of TIFF says: 1 is upright.
    """

    levels: list[da.Array]
    um_per_px: PixelSize | None
    source: str
    orientation: int = 1

    def upright(self) -> Pyramid:
        """Turn and mirror the levels as the orientation asks for."""
        if self.orientation == 1:
            return self
        turned, steps_down, steps_right = _ORIENTATIONS[self.orientation]
        levels: list[Any] = list(self.levels)
        if turned:
            levels = [level.transpose(0, 2, 1) for level in levels]
        levels = [level[:, ::steps_down, ::steps_right] for level in levels]
        size = self.um_per_px[::-1] if turned and self.um_per_px else self.um_per_px
        return Pyramid(levels, size, self.source)


def open_tiff(path: Path) -> Pyramid:
    """Open the largest colour picture of a TIFF file with all its levels; no pixel is kept.

    Raises
    ------
    InputValueError
        The file is damaged, holds no colour picture, or a codec is missing.
    """
    with reading(path, "TIFF"):
        # Stays open: the levels read from it for as long as they live.
        tif = tifffile.TiffFile(path)
        pictures = [series for series in tif.series if _is_colour(series)]
        if not pictures:
            found = [f"{series.axes} {series.shape}" for series in tif.series]
            msg = f"{path} holds no picture of 3 or 4 channels (y, x, channel); found {found}"
            raise InputValueError(msg)
        slide = max(pictures, key=lambda series: series.levels[0].size)
        _tell_others(path, pictures, slide)
        alpha = slide.keyframe.extrasamples[:1]
        levels = [lazy_rgb(slide.aszarr(level=i), path, alpha) for i in range(len(slide.levels))]
        size, source = _pixel_size(tif, slide)
        orientation = orientation_of(slide.keyframe)
    return Pyramid(levels, size, source, orientation)


def _tell_others(
    path: Path, pictures: list[tifffile.TiffPageSeries], slide: tifffile.TiffPageSeries
) -> None:
    """Say that a file holds several scenes; labels and overviews are much smaller than the slide."""
    most = slide.levels[0].size
    large = [series for series in pictures if series.levels[0].size > _SCENE * most]
    if len(large) > 1:
        logger.warning(
            "%s holds %d pictures of about the same size (%s); the largest, number %d, is read",
            path,
            len(large),
            ", ".join(str(series.shape) for series in large),
            pictures.index(slide),
        )


def lazy_rgb(store: Any, path: Path, alpha: Sequence[int] = ()) -> da.Array:
    """Make a lazy array ``[3, y, x]`` of a picture that tifffile opened as a store of zarr.

    Parameters
    ----------
    store, path
        The picture, and its file.
    alpha
        What TIFF says of a fourth channel. One that is not said to be alpha is left out.

    Raises
    ------
    InputValueError
        The pixels cannot be decoded, or they have other dimensions.
    """
    with reading(path, "TIFF"):
        array: Any = zarr.open_array(store, mode="r")
        # One tile, so that a codec that is not installed or a cut-off file is told now.
        array[(slice(1),) * array.ndim]
    if array.ndim != 3:
        msg = f"image {path} has {array.ndim} dimensions, needs 3 (y, x, channel)"
        raise InputValueError(msg)
    if not 0 < min(array.shape) <= max(array.shape) <= _LARGEST_SIDE:
        msg = f"image {path} claims the shape {array.shape}, which no scanner makes; it is damaged"
        raise InputValueError(msg)
    # Without a name of its own an array could be taken for that of another file of the same form.
    pixels: Any = da.from_array(array, chunks=_chunks(array), name=False)  # type: ignore[no-untyped-call]
    if pixels.shape[0] not in (3, 4):
        pixels = pixels.transpose(2, 0, 1)
    rgb: da.Array = pixels[:3]
    if pixels.shape[0] == 4 and set(alpha) & _ALPHA:
        premultiplied = tifffile.EXTRASAMPLE.ASSOCALPHA in alpha
        rgb = pixels.map_blocks(
            lambda block: over_white(block[:3], block[3], premultiplied=premultiplied),
            chunks=(3, *pixels.chunks[1:]),
            dtype=pixels.dtype,
            meta=np.empty((0, 0, 0), pixels.dtype),
        )
    return rgb


def _is_colour(series: tifffile.TiffPageSeries) -> bool:
    channels = {"YXS": 2, "SYX": 0, "CYX": 0}.get(series.axes)
    return channels is not None and series.shape[channels] in (3, 4)


def _chunks(array: Any) -> tuple[int, ...]:
    """Several stored tiles per chunk, as many along x as along y, and whole in the channels."""
    height, width = (1, 2) if array.shape[0] in (3, 4) else (0, 1)
    sizes = list(array.chunks)
    together = max(1, isqrt(_CHUNK_BYTES // max(1, sizes[height] * sizes[width] * 3)))
    for axis in range(3):
        many = together if axis in (height, width) else array.shape[axis]
        sizes[axis] = min(array.shape[axis], sizes[axis] * many)
    return tuple(sizes)


def _pixel_size(
    tif: tifffile.TiffFile, slide: tifffile.TiffPageSeries
) -> tuple[PixelSize | None, str]:
    looked = []
    for source, size in _written_sizes(tif, slide):
        if size is not None:
            return size, source
        looked.append(source)
    return None, ", ".join(looked)


def _written_sizes(
    tif: tifffile.TiffFile, slide: tifffile.TiffPageSeries
) -> Iterator[tuple[str, PixelSize | None]]:
    page = slide.keyframe
    if tif.ome_metadata is not None:
        yield (
            "PhysicalSizeX and PhysicalSizeY of OME",
            _from_ome(tif.ome_metadata, tif.series.index(slide)),
        )
    if tif.is_svs:
        yield "MPP of the Aperio description", _from_aperio(page.description)
    if tif.is_imagej:
        yield "the resolution and unit of ImageJ", _from_imagej(tif.imagej_metadata or {}, page)
    yield "the resolution of TIFF", _from_tags(page)


def _from_ome(metadata: str, index: int) -> PixelSize | None:
    images = tifffile.xml2dict(metadata)["OME"].get("Image", [])
    images = images if isinstance(images, list) else [images]
    pixels = images[index].get("Pixels", {}) if index < len(images) else {}
    sizes = []
    for axis in "XY":
        unit = _unit_um(pixels.get(f"PhysicalSize{axis}Unit", "um"))
        size = pixels.get(f"PhysicalSize{axis}", "")
        if unit is None or size == "":
            return None
        sizes.append(_times(size, unit))
    return sizes[0], sizes[1]


def _from_aperio(description: str) -> PixelSize | None:
    found = re.search(r"\bMPP\s*=\s*([^|\r\n]*)", description)
    size = found[1].strip() if found else ""
    return (size, size) if size else None


def _from_imagej(metadata: Mapping[str, Any], page: tifffile.TiffPage) -> PixelSize | None:
    """Read ImageJ's pixels per unit, whose unit is not one of TIFF."""
    unit = _unit_um(metadata.get("unit", ""))
    if unit is None or "XResolution" not in page.tags or "YResolution" not in page.tags:
        return None
    per_unit = page.get_resolution()
    return _inverse(per_unit[0], unit), _inverse(per_unit[1], unit)


def _from_tags(page: tifffile.TiffPage) -> PixelSize | None:
    if page.resolutionunit <= tifffile.RESUNIT.NONE:
        return None
    x, y = (_inverse(value, 1.0) for value in page.get_resolution(tifffile.RESUNIT.MICROMETER))
    return (x, y) if max(x, y) <= _LARGEST_PIXEL_UM else None


def _unit_um(name: object) -> float | None:
    return _UM_PER_UNIT.get(str(name).strip().lower())


def _inverse(per_unit: float, unit_um: float) -> float:
    return unit_um / per_unit if per_unit > 0 else float("inf")


def _times(size: object, unit_um: float) -> object:
    """Turn a number to micrometres, and leave what is none for the check to name."""
    try:
        return float(size) * unit_um  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return size


def orientation_of(page: tifffile.TiffPage) -> int:
    """How a page lies in its file; what is no orientation is taken for upright, as viewers do."""
    value = page.tags.valueof(ORIENTATION, default=1)
    return int(value) if value in _ORIENTATIONS else 1
