"""Slides that have an image only: where to predict, and the table that holds the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anndata as ad
import pandas as pd
from spatialdata import SpatialData
from spatialdata.models import TableModel

from rankbygene.data import frame_from_shapes
from rankbygene.data.slides._known_scale import known_um_per_px
from rankbygene.errors import OutputExistsError
from rankbygene.pp import find_tissue_tiles

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

    from rankbygene._keys import Keys
    from rankbygene.data import SpotFrame


def slide_frame(
    sdata: SpatialData,
    *,
    image_key: str | None,
    shapes_key: str | None,
    table_key: str,
    coordinate_system: str | None,
    um_per_px: float | None,
    tile_um: float,
    step_um: float | None,
    overwrite: bool,
) -> tuple[SpotFrame, GeoDataFrame | None]:
    """Resolve the given shapes, or tissue tiles made for the purpose; ``sdata`` is not changed."""
    if table_key in sdata.tables and not overwrite:
        msg = (
            f"a table named {table_key!r} exists already; pass another `table_key`, or "
            "`overwrite=True` to replace it"
        )
        raise OutputExistsError(msg)
    if shapes_key is not None:
        frame = frame_from_shapes(
            sdata,
            shapes_key,
            image_key=image_key,
            coordinate_system=coordinate_system,
            um_per_px=um_per_px,
        )
        return frame, None
    return tissue_frame(
        sdata,
        f"{table_key}_tiles",
        image_key=image_key,
        coordinate_system=coordinate_system,
        um_per_px=um_per_px,
        tile_um=tile_um,
        step_um=step_um,
    )


def tissue_frame(
    sdata: SpatialData,
    tiles_key: str,
    *,
    image_key: str | None,
    coordinate_system: str | None,
    um_per_px: float | None,
    tile_um: float,
    step_um: float | None,
) -> tuple[SpotFrame, GeoDataFrame]:
    """Cover the tissue of a slide's image with tiles, named ``tiles_key``; no table is needed."""
    image_key, tiles = find_tissue_tiles(
        sdata, image_key, tile_um=tile_um, step_um=step_um, um_per_px=um_per_px
    )
    # Tiles go into an object of their own first: the user's stays as it is if anything fails.
    apart = SpatialData(images={image_key: sdata.images[image_key]}, shapes={tiles_key: tiles})
    frame = frame_from_shapes(
        apart,
        tiles_key,
        image_key=image_key,
        coordinate_system=coordinate_system,
        um_per_px=known_um_per_px(sdata, image_key, um_per_px),
    )
    return frame, tiles


def slide_table(
    frame: SpotFrame,
    *,
    expression: Any,
    latent: Any,
    genes: Sequence[str],
    keys: Keys,
    params: Mapping[str, Any],
) -> ad.AnnData:
    """Build a table that annotates ``frame.region``, of arrays in memory or lazy ones.

    Parameters
    ----------
    frame
        The spots; rows of the table.
    expression, latent
        ``[n_obs, n_genes]`` and ``[n_obs, n_latent]``; None where the method has none.
    genes
        Names of the columns of ``expression``.
    keys, params
        Name of the representation; provenance.
    """
    obs = pd.DataFrame(
        {"region": pd.Categorical([frame.region] * frame.n_obs), "instance_id": frame.instances},
        index=pd.Index(frame.obs_names.astype(str)),
    )
    table = ad.AnnData(
        X=expression,
        obs=obs,
        var=pd.DataFrame(index=pd.Index(list(genes)).astype(str)),
        obsm={"spatial": frame.centers} | ({} if latent is None else {keys.latent: latent}),
        uns={keys.params: dict(params)},
    )
    return TableModel.parse(
        table, region=frame.region, region_key="region", instance_key="instance_id"
    )
