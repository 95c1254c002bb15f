"""Ids and centres of what a region holds: circles, polygons or labels."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from dask.delayed import delayed
from numpy.typing import NDArray
from spatialdata import SpatialData
from xarray import DataArray, DataTree

from rankbygene.data.slides._images import finest_level
from rankbygene.errors import InputKeyError, InputValueError

logger = logging.getLogger("rankbygene")


def check_region(sdata: SpatialData, region: str) -> None:
    """Refuse a region that is absent, or whose elements have no place for a tile.

    Raises
    ------
    InputKeyError
        There is no such element.
    InputValueError
        The element is neither shapes nor labels.
    """
    if region in sdata.shapes or region in sdata.labels:
        return
    for kind in ("points", "images", "tables"):
        if region in getattr(sdata, kind):
            msg = f"region {region!r} is in {kind}; tiles are cut around shapes or labels only"
            raise InputValueError(msg)
    msg = (
        f"there is no element {region!r}; shapes: {list(sdata.shapes)}, "
        f"labels: {list(sdata.labels)}"
    )
    raise InputKeyError(msg)


def region_centers(sdata: SpatialData, region: str) -> tuple[pd.Index, NDArray[np.float64]]:
    """Return the ids of a region and their centres, ``[m, 2]``, in the region's own units.

    The centre of a polygon is its centroid, that of a label the mean of its pixels.

    Raises
    ------
    InputValueError
        Two elements share an id.
    """
    if region in sdata.labels:
        return _label_centers(sdata.labels[region], region)
    shapes = sdata.shapes[region]
    repeated = shapes.index[shapes.index.duplicated()].unique()
    if len(repeated):
        msg = (
            f"{len(repeated):,} ids occur more than once in {region!r} "
            f"(first: {list(repeated[:3])}); give each shape an id of its own"
        )
        raise InputValueError(msg)
    centroids = shapes.geometry.centroid
    return shapes.index, np.column_stack([centroids.x, centroids.y])


def _label_centers(
    labels: DataArray | DataTree, region: str
) -> tuple[pd.Index, NDArray[np.float64]]:
    logger.info("region %r is labels: every pixel is read to find their centres", region)
    element = finest_level(labels).transpose("y", "x")
    blocks = element.data.to_delayed()
    starts = [np.cumsum((0, *chunks[:-1])) for chunks in element.data.chunks]
    parts = [
        delayed(_block_sums)(blocks[i, j], int(y), int(x))
        for i, y in enumerate(starts[0])
        for j, x in enumerate(starts[1])
    ]
    sums = delayed(pd.concat)(parts).compute(scheduler="threads").groupby(level=0).sum()
    # Pixel i spans [i, i + 1).
    centers = sums[["x", "y"]].to_numpy() / sums[["n"]].to_numpy() + 0.5
    return sums.index, centers


def _block_sums(block: NDArray[np.integer], y: int, x: int) -> pd.DataFrame:
    """Count the pixels of each label in a block, and add up their columns and rows."""
    rows, columns = np.nonzero(block)
    ids, inverse = np.unique(block[rows, columns], return_inverse=True)
    sums = {
        "n": np.bincount(inverse, minlength=len(ids)),
        "x": np.bincount(inverse, weights=columns + x, minlength=len(ids)),
        "y": np.bincount(inverse, weights=rows + y, minlength=len(ids)),
    }
    return pd.DataFrame(sums, index=ids)
