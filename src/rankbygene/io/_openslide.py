"""Slides that only OpenSlide reads as they look, such as MIRAX and DICOM, as lazy arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np

from rankbygene.data.slides._images import over_white
from rankbygene.errors import InputValueError
from rankbygene.io._tiff import Pyramid

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_CHUNK = 1024


def open_with_openslide(path: Path, obstacle: str) -> Pyramid:
    """Open a slide with OpenSlide, if it is installed.

    Parameters
    ----------
    path
        The slide.
    obstacle
        Why it is not read otherwise, as part of a sentence.

    Raises
    ------
    InputValueError
        OpenSlide is not installed, or does not know the file.
    """
    try:
        import openslide
    except ImportError as error:
        msg = (
            f"{path} {obstacle}; such slides are read with OpenSlide (LGPL-2.1), which is not "
            "installed: `pip install openslide-python openslide-bin`"
        )
        raise InputValueError(msg) from error
    try:
        slide = openslide.OpenSlide(path)
    # Its bindings raise errors of ctypes too.
    except Exception as error:
        msg = f"{path} {obstacle}, and OpenSlide cannot read it: {error}"
        raise InputValueError(msg) from error
    levels = [_Level(slide, i) for i in range(slide.level_count)]
    arrays: list[Any] = [
        da.from_array(level, chunks=(3, _CHUNK, _CHUNK), name=False)  # type: ignore[no-untyped-call]
        for level in levels
    ]
    um_per_x, um_per_y = (slide.properties.get(f"openslide.mpp-{a}", "").strip() for a in "xy")
    um_per_px = (um_per_x, um_per_y) if um_per_x and um_per_y else None
    return Pyramid(arrays, um_per_px, "openslide.mpp-x and openslide.mpp-y")


class _Level:
    """What dask needs of an array, for one level of a slide."""

    def __init__(self, slide: Any, level: int) -> None:
        width, height = slide.level_dimensions[level]
        self.shape, self.ndim, self.dtype = (3, height, width), 3, np.dtype(np.uint8)
        self._slide, self._level = slide, level

    def __getitem__(self, key: tuple[slice, slice, slice]) -> NDArray[np.uint8]:
        channels, rows, columns = (
            range(*part.indices(size)) for part, size in zip(key, self.shape, strict=True)
        )
        factor = self._slide.level_downsamples[self._level]
        corner = round(columns.start * factor), round(rows.start * factor)
        region = self._slide.read_region(corner, self._level, (len(columns), len(rows)))
        pixels = np.asarray(region).transpose(2, 0, 1)
        return over_white(pixels[:3], pixels[3])[list(channels)]
