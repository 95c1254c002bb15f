"""Spots and counts of tables whose image does not matter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rankbygene._checks import check_sdata
from rankbygene.data import SpatialSetup, SpotFrame
from rankbygene.data.counts._counts import check_counts
from rankbygene.data.slides._annotation import array_index_of, join, read_annotation, region_rows
from rankbygene.data.slides._regions import check_region, region_centers
from rankbygene.errors import Problems

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from rankbygene.data.slides._annotation import Annotation


def table_frames(
    sdata: SpatialData, *, table_key: str, layer: str | None, counts: bool
) -> list[SpotFrame]:
    """Find the spots of every region of a table, without an image and without a scale.

    Parameters
    ----------
    sdata
        The object; it is not changed.
    table_key
        Table that annotates the spots.
    layer
        Layer with the values; ``X`` if None.
    counts
        Whether to check that the values are counts.

    Returns
    -------
    One frame per region. Its centres are in the region's own units, enough to find neighbours.

    Raises
    ------
    InputTypeError, InputKeyError, InputValueError
        Everything that was found wrong, in one report.
    """
    check_sdata(sdata)
    setup = SpatialSetup(table_key=table_key, layer=layer)
    annotation = read_annotation(sdata, table_key)
    problems = Problems(f"table {table_key!r}")
    if counts:
        check_counts(annotation.table, layer, problems)
    frames = []
    for region in annotation.regions:
        with problems.collect():
            frames.append(_frame(sdata, setup, annotation, region))
    problems.raise_if_any()
    return frames


def _frame(
    sdata: SpatialData, setup: SpatialSetup, annotation: Annotation, region: str
) -> SpotFrame:
    check_region(sdata, region)
    rows = region_rows(annotation, region)
    ids, centers = region_centers(sdata, region)
    return SpotFrame(
        slide=region,
        sdata=sdata,
        setup=setup,
        region=region,
        image_key="",
        coordinate_system="",
        patient=None,
        rows=rows,
        obs_names=annotation.table.obs_names.to_numpy(dtype=object)[rows],
        instances=annotation.instance_of_row[rows],
        centers=centers[join(annotation, region, rows, ids)],
        array_index=array_index_of(annotation.table, rows),
        um_per_unit=np.nan,
        um_source="not needed",
    )
