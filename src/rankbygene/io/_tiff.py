"""Levels of a TIFF slide as lazy arrays, and the size of its pixels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, Any

import dask.array as da
import tifffile
import zarr

from rankbygene.errors import InputValueError

if TYPE_CHECKING:
    from pathlib import Path

PixelSize = tuple[float, float]

# Stored tiles are small, and each chunk has a price of its own; this many bytes are read together.
_CHUNK_BYTES = 1 << 22
# The resolution of TIFF is often that of a printer: 1200 dots per inch are 21 um.
_LARGEST_PIXEL_UM = 20.0
_UM_PER_UNIT = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
_NUMBER = r"([0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?)"


@dataclass(frozen=True, eq=False)
class Pyramid:
    """An opened slide.

    Parameters
    ----------
    levels
        Lazy arrays ``[3, y, x]``, finest first.
    um_per_px
        Micrometres per pixel of the finest level along x and y, where the file tells.
    source
        Where that is written in the file, or where it was looked for in vain.
    """

    levels: list[da.Array]
    um_per_px: PixelSize | None
    source: str


def open_tiff(path: Path) -> Pyramid:
    """Open the largest colour picture of a TIFF file with all its levels; no pixel is kept.

    Raises
    ------
    InputValueError
        The file is damaged, holds no colour picture, or a codec is missing.
    """
    try:
        # Stays open: the levels read from it for as long as they live.
        tif = tifffile.TiffFile(path)
        pictures = [series for series in tif.series if _is_colour(series)]
        if not pictures:
            found = [f"{series.axes} {series.shape}" for series in tif.series]
            msg = f"{path} holds no picture of 3 or 4 channels (y, x, channel); found {found}"
            raise InputValueError(msg)
        slide = max(pictures, key=lambda series: series.levels[0].size)
        levels = [lazy_rgb(slide.aszarr(level=i), path) for i in range(len(slide.levels))]
    except (tifffile.TiffFileError, OSError) as error:
        raise InputValueError(unreadable(path, error)) from error
    return Pyramid(levels, *_pixel_size(tif, slide))


def lazy_rgb(store: Any, path: Path) -> da.Array:
    """Make a lazy array ``[3, y, x]`` of a picture that tifffile opened as a store of zarr.

    Raises
    ------
    InputValueError
        The pixels cannot be decoded, or they have other dimensions.
    """
    try:
        array: Any = zarr.open_array(store, mode="r")
        # One tile, so that a codec that is not installed or a cut-off file is told now.
        array[(slice(1),) * array.ndim]
    except (tifffile.TiffFileError, OSError, RuntimeError, ValueError) as error:
        raise InputValueError(unreadable(path, error)) from error
    if array.ndim != 3:
        msg = f"image {path} has {array.ndim} dimensions, needs 3 (y, x, channel)"
        raise InputValueError(msg)
    # Without a name of its own an array could be taken for that of another file of the same form.
    pixels: Any = da.from_array(array, chunks=_chunks(array), name=False)  # type: ignore[no-untyped-call]
    if pixels.shape[0] not in (3, 4):
        pixels = pixels.transpose(2, 0, 1)
    rgb: da.Array = pixels[:3]
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
    yield "the resolution of TIFF", _from_tags(page)


def _from_ome(metadata: str, index: int) -> PixelSize | None:
    images = tifffile.xml2dict(metadata)["OME"].get("Image", [])
    images = images if isinstance(images, list) else [images]
    pixels = images[index].get("Pixels", {}) if index < len(images) else {}
    sizes = []
    for axis in "XY":
        unit = _UM_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        size = pixels.get(f"PhysicalSize{axis}")
        if unit is None or size is None or not float(size) > 0:
            return None
        sizes.append(float(size) * unit)
    return sizes[0], sizes[1]


def _from_aperio(description: str) -> PixelSize | None:
    found = re.search(rf"\bMPP\s*=\s*{_NUMBER}", description)
    size = float(found[1]) if found else 0.0
    return (size, size) if size > 0 else None


def _from_tags(page: tifffile.TiffPage) -> PixelSize | None:
    if page.resolutionunit not in (tifffile.RESUNIT.INCH, tifffile.RESUNIT.CENTIMETER):
        return None
    per_um = page.get_resolution(tifffile.RESUNIT.MICROMETER)
    sizes = [1 / value if value > 0 else float("inf") for value in per_um]
    return (sizes[0], sizes[1]) if max(sizes) <= _LARGEST_PIXEL_UM else None


def unreadable(path: Path, error: Exception) -> str:
    """Say of a file that it is none, or a damaged one."""
    return f"image {path} cannot be read as TIFF: {error}"
