"""Copies of slides that hold what a method may see, and nothing that leads to the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import geopandas as gpd
import numpy as np
import pandas as pd
from scipy import sparse
from spatialdata import SpatialData
from spatialdata.models import TableModel
from spatialdata.transformations import get_transformation
from xarray import DataArray, Dataset, DataTree

from rankbygene.base._setup import remember_setup
from rankbygene.data.counts._counts import count_matrix
from rankbygene.data.expression._panel import count_blocks
from rankbygene.data.slides._frame import PlacedSetup

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.data import SpotFrame

__all__ = ["light_copy"]

_ARRAY_INDEX = ("array_row", "array_col")
_TRANSFORM = "transform"


def light_copy(
    frame: SpotFrame, rows: NDArray[np.intp], *, patient: str | None, with_counts: bool
) -> SpatialData:
    """Give a SpatialData of one slide that holds some of its spots and shares its pixels.

    Whatever else the object, its table, shapes or image carry may have been computed from all spots
    (clusters, components, ``raw``, ``uns``), or hold counts outright. None of it is passed on.

    Parameters
    ----------
    frame
        The slide. Its image, coordinate system, scale and array indices hold for the copy, which
        lacks what they were found by.
    rows
        Rows of the frame to keep.
    patient
        Its patient; becomes ``obs["patient"]``, where splits within training find it.
    with_counts
        False replaces the counts by zeros.
    """
    link = frame.table.uns[TableModel.ATTRS_KEY]
    region_key, instance_key = link[TableModel.REGION_KEY_KEY], link[TableModel.INSTANCE_KEY]
    obs = pd.DataFrame(
        {
            region_key: pd.Categorical([frame.region] * len(rows)),
            instance_key: frame.instances[rows],
        },
        index=pd.Index(frame.obs_names[rows]),
    )
    if frame.array_index is not None:
        obs[list(_ARRAY_INDEX)] = frame.array_index[rows]
    if patient is not None:
        obs["patient"] = pd.Categorical([patient] * len(rows))
    names = frame.table.var_names
    counts = sparse.csr_matrix((len(rows), len(names)), dtype=np.float32)
    if with_counts:
        # A block is the reader's own copy: the user's matrix is neither changed nor kept.
        kind = count_matrix(frame.table, frame.setup.layer).dtype
        counts = sparse.csr_matrix(sparse.vstack(list(count_blocks(frame, rows))), dtype=kind)
    layer = frame.setup.layer if with_counts else None
    table = TableModel.parse(
        ad.AnnData(
            counts,
            obs=obs,
            var=pd.DataFrame(index=pd.Index(names.to_numpy(object))),
            layers={} if layer is None else {layer: counts},
        ),
        region=frame.region,
        region_key=region_key,
        instance_key=instance_key,
    )
    copy = SpatialData.init_from_elements(
        {
            frame.image_key: _bare_image(frame.sdata.images[frame.image_key]),
            frame.region: _bare_region(frame.sdata[frame.region], frame.instances[rows]),
            frame.setup.table_key: table,
        }
    )
    setup = PlacedSetup(
        table_key=frame.setup.table_key,
        image_key=frame.image_key,
        layer=layer,
        coordinate_system=frame.coordinate_system,
        patient_key=None if patient is None else "patient",
        um_per_unit=frame.um_per_unit,
        um_source=frame.um_source,
    )
    remember_setup(copy, setup)
    return copy


def _bare_image(image: DataArray | DataTree) -> DataArray | DataTree:
    """Give the pixels with their axes and transformations alone."""
    if isinstance(image, DataArray):
        return _bare_level(image)
    levels = {}
    for name, child in image.children.items():
        variable, level = next(iter(child.data_vars.items()))
        levels[name] = Dataset({variable: _bare_level(level)})
    return DataTree.from_dict(levels)


def _bare_level(level: DataArray) -> DataArray:
    own = {name: level.coords[name].to_numpy() for name in level.dims if name in level.coords}
    return DataArray(
        level.data,
        coords=own,
        dims=level.dims,
        attrs={_TRANSFORM: dict(get_transformation(level, get_all=True))},
    )


def _bare_region(element: Any, instances: NDArray[Any]) -> Any:
    """Give the shapes of some spots without their other columns; labels as they are."""
    if not isinstance(element, gpd.GeoDataFrame):
        return _bare_image(element)
    columns = [name for name in ("geometry", "radius") if name in element]
    own = gpd.GeoDataFrame(element.loc[instances, columns].copy())
    own.attrs = {_TRANSFORM: dict(get_transformation(element, get_all=True))}
    return own
