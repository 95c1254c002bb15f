"""An image, spots and counts put together as SpatialData."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale

if TYPE_CHECKING:
    import anndata as ad
    import dask.array as da
    from numpy.typing import NDArray
    from spatialdata.transformations import BaseTransformation

_CHUNKS = (3, 512, 512)


def element_name(name: str) -> str:
    """Replace what SpatialData does not allow in names."""
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)


def pixel_systems(um_per_px: float) -> dict[str, BaseTransformation]:
    """Coordinate systems of an image and of what is given in its pixels: pixels, and micrometres."""
    return {"global": Identity(), "um": Scale([um_per_px, um_per_px], axes=("x", "y"))}


def assemble(
    name: str,
    image: NDArray[np.uint8] | da.Array,
    centers: NDArray[np.float64],
    table: ad.AnnData,
    *,
    um_per_px: float,
    spot_diameter_um: float,
    scale_factors: Sequence[int] | None,
) -> SpatialData:
    """Put an image ``[3, y, x]``, spot centres in its pixels ``[n, 2]`` and a table together."""
    systems = pixel_systems(um_per_px)
    region, ids = f"{name}_spots", table.obs_names.astype(str)
    table.obs["region"] = pd.Categorical([region] * table.n_obs)
    table.obs["spot_id"] = ids
    shapes = ShapesModel.parse(
        centers,
        geometry=0,
        radius=spot_diameter_um / 2 / um_per_px,
        index=pd.Index(ids),
        transformations=systems,
    )
    picture = Image2DModel.parse(
        image,
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        chunks=_CHUNKS,
        scale_factors=None if scale_factors is None else list(scale_factors),
        transformations=systems,
    )
    parsed = TableModel.parse(table, region=region, region_key="region", instance_key="spot_id")
    return SpatialData(
        images={f"{name}_image": picture}, shapes={region: shapes}, tables={"table": parsed}
    )
