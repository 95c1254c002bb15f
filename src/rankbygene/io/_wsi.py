"""Whole-slide images, read lazily."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import dask.array as da
import numpy as np
import tifffile
from spatialdata import SpatialData
from spatialdata.models import Image2DModel
from spatialdata.transformations import set_transformation
from xarray import DataArray, Dataset, DataTree

from rankbygene._arguments import checked
from rankbygene._reading import reading, regular_file
from rankbygene.data.slides._images import check_rgb_uint8
from rankbygene.data.slides._pixel_size import check_pixel_size, check_um_per_px
from rankbygene.errors import InputValueError
from rankbygene.io._assemble import element_name, pixel_systems
from rankbygene.io._legacy_st import read_image
from rankbygene.io._openslide import open_with_openslide
from rankbygene.io._tiff import Pyramid, open_tiff

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from spatialdata.transformations import BaseTransformation

__all__ = ["read_wsi"]

logger = logging.getLogger("rankbygene")

_PICTURES = frozenset({".jpg", ".jpeg", ".png"})
_DISAGREEMENT = 0.05


@checked(um_per_px=None)
def read_wsi(
    path: str | Path, *, name: str | None = None, um_per_px: float | None = None
) -> SpatialData:
    """Open a whole-slide image.

    TIFF files are read with tifffile: Aperio ``.svs``, Hamamatsu ``.ndpi``, Leica ``.scn``, OME-TIFF,
    and generic ones, with a pyramid or without. Other slides, such as MIRAX ``.mrxs`` and DICOM, Ventana's
    ``.bif``, and older Aperio files in JPEG 2000 with YCbCr colours, need OpenSlide
    :cite:p:`goode2013openslide`, which is used where it is installed.
    Pixels stay in the file until they are asked for. Pictures that lie on their side are turned as their
    orientation tag says. Only ``.jpg`` and ``.png``, which have no parts that
    could be read alone, are decoded into memory.

    Parameters
    ----------
    path
        The file.
    name
        Name of the slide: the image is ``<name>_image``. By default the file's name without its
        ending, with ``_`` for characters that SpatialData does not allow in names.
    um_per_px
        Micrometres per pixel of the finest level; goes before what the file says.

    Returns
    -------
    An object with one multi-scale image, in systems ``global`` (pixels of the finest level) and
    ``um``.

    Raises
    ------
    InputValueError
        The file cannot be read or holds no colour picture, or nothing tells the size of a
        pixel, or it is one that no microscope has.
    InputTypeError
        The pixels are not 8-bit.

    Examples
    --------
    >>> slide = rbg.io.read_wsi("TCGA-A1-A0SB-01Z-00-DX1.svs")  # doctest: +SKIP
    >>> model.predict_slide(slide)  # doctest: +SKIP
    """
    path = regular_file(path)
    pyramid = _open(path).upright()
    pixel_um = _pixel_size(pyramid, um_per_px, path)
    name = element_name(path.stem.removesuffix(".ome") if name is None else name)
    key = f"{name}_image"
    image = _multiscale(pyramid.levels, pixel_systems(pixel_um))
    check_rgb_uint8(image, key)
    return SpatialData(images={key: image})


def _open(path: Path) -> Pyramid:
    try:
        with tifffile.TiffFile(path) as tif:
            obstacle = _obstacle(tif, path)
    except tifffile.TiffFileError:
        if path.suffix.lower() in _PICTURES:
            upright = read_image(path, turn=True)
            pixels = da.from_array(upright, chunks=(3, 1024, 1024))  # type: ignore[no-untyped-call]
            return Pyramid([pixels], None, "a picture without it")
        obstacle = "is not a TIFF file"
    return open_tiff(path) if obstacle is None else open_with_openslide(path, obstacle)


def _obstacle(tif: tifffile.TiffFile, path: Path) -> str | None:
    """Say what tifffile would read, but not as it looks."""
    with reading(path, "TIFF"):
        if tif.is_bif:
            return "has tiles that overlap"
        if tif.pages.first.compression == tifffile.COMPRESSION.APERIO_JP2000_YCBC:
            return "holds YCbCr colours in JPEG 2000"
    return None


def _pixel_size(pyramid: Pyramid, um_per_px: float | None, path: Path) -> float:
    found = pyramid.um_per_px
    if um_per_px is None:
        if found is None:
            msg = (
                f"micrometres per pixel of {path} are unknown (looked at {pyramid.source}); "
                "pass um_per_px=... of the finest level"
            )
            raise InputValueError(msg)
        return check_pixel_size(*found, f"{pyramid.source} in {path}")
    said = check_um_per_px(um_per_px, "um_per_px")
    try:
        written = None if found is None else check_pixel_size(*found, pyramid.source)
    except InputValueError as error:
        logger.warning("%s: um_per_px=%g is used; of what the file holds: %s", path, said, error)
    else:
        if written is not None and abs(said / written - 1) > _DISAGREEMENT:
            logger.warning(
                "%s: um_per_px=%g is used, though %s says %g", path, said, pyramid.source, written
            )
    return said


def _multiscale(
    levels: Sequence[da.Array], systems: Mapping[str, BaseTransformation]
) -> DataArray | DataTree:
    """Make an image element of levels that exist already."""
    parsed = [
        Image2DModel.parse(level, dims=("c", "y", "x"), c_coords=["r", "g", "b"])
        for level in levels
    ]
    height, width = levels[0].shape[1:]
    # Coordinates are those of pixel centres in pixels of the finest level.
    placed = [
        level.assign_coords(
            y=(np.arange(level.sizes["y"]) + 0.5) * (height / level.sizes["y"]),
            x=(np.arange(level.sizes["x"]) + 0.5) * (width / level.sizes["x"]),
        )
        for level in parsed
    ]
    image: DataArray | DataTree = placed[0]
    if len(placed) > 1:
        image = DataTree.from_dict(
            {f"scale{i}": Dataset({"image": level}) for i, level in enumerate(placed)}
        )
    set_transformation(image, dict(systems), set_all=True)
    Image2DModel.validate(image)
    return image
