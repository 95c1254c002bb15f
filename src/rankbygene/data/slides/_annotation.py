"""What a table says of the elements that it annotates, row by row."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from spatialdata import SpatialData
from spatialdata.models import TableModel

from rankbygene._names import read_patients, require_names
from rankbygene.errors import InputKeyError, InputValueError

_ADVICE = "use `TableModel.parse(table, region=..., region_key=..., instance_key=...)`"


class Annotation(NamedTuple):
    """A table and its links to the elements of a SpatialData object.

    Parameters
    ----------
    name, table
        The table.
    regions
        Elements that the table annotates, in its own order.
    region_of_row, instance_of_row
        Element and id that each row stands for, ``[n_obs]``.
    """

    name: str
    table: AnnData
    regions: list[str]
    region_of_row: NDArray[Any]
    instance_of_row: NDArray[Any]


def read_annotation(sdata: SpatialData, table_key: str) -> Annotation:
    """Read which rows of a table stand for which elements.

    Raises
    ------
    InputKeyError
        There is no such table.
    InputValueError
        The table annotates nothing, is empty, or has rows of no region.
    """
    if table_key not in sdata.tables:
        msg = f"there is no table {table_key!r}; the tables are {list(sdata.tables)}"
        raise InputKeyError(msg)
    table = sdata.tables[table_key]
    attrs = table.uns.get(TableModel.ATTRS_KEY)
    if not attrs or not attrs.get(TableModel.REGION_KEY):
        msg = f"table {table_key!r} annotates nothing (no `spatialdata_attrs`); {_ADVICE}"
        raise InputValueError(msg)
    columns = [attrs.get(TableModel.REGION_KEY_KEY), attrs.get(TableModel.INSTANCE_KEY)]
    missing = [column for column in columns if column not in table.obs]
    if missing:
        msg = f"table {table_key!r} has no column {missing} in obs, named as its link; {_ADVICE}"
        raise InputValueError(msg)
    if table.n_obs == 0:
        msg = f"table {table_key!r} has no rows; nothing to work on"
        raise InputValueError(msg)
    region = attrs[TableModel.REGION_KEY]
    annotation = Annotation(
        name=table_key,
        table=table,
        regions=[region] if isinstance(region, str) else [str(r) for r in region],
        region_of_row=table.obs[columns[0]].to_numpy(),
        instance_of_row=table.obs[columns[1]].to_numpy(),
    )
    _check_all_rows_belong(annotation)
    return annotation


def _check_all_rows_belong(annotation: Annotation) -> None:
    strange = ~pd.Index(annotation.region_of_row).isin(annotation.regions)
    if strange.any():
        found = list(pd.unique(annotation.region_of_row[strange])[:3])
        msg = (
            f"{strange.sum():,} rows of {annotation.name!r} belong to regions {found} that the "
            f"table does not declare (declared: {annotation.regions}); {_ADVICE}"
        )
        raise InputValueError(msg)


def region_rows(annotation: Annotation, region: str) -> NDArray[np.intp]:
    """Return the rows of one region, in the order of the table.

    Raises
    ------
    InputValueError
        There are none, or two of them stand for the same instance.
    """
    rows = np.flatnonzero(annotation.region_of_row == region)
    if len(rows) == 0:
        msg = f"no row of {annotation.name!r} belongs to region {region!r}; drop the region"
        raise InputValueError(msg)
    instances = pd.Index(annotation.instance_of_row[rows])
    repeated = instances[instances.duplicated()].unique()
    if len(repeated):
        msg = (
            f"{len(repeated):,} ids of region {region!r} occur in more than one row of "
            f"{annotation.name!r} (first: {list(repeated[:3])}); keep one row for each"
        )
        raise InputValueError(msg)
    return rows


def join(
    annotation: Annotation, region: str, rows: NDArray[np.intp], ids: pd.Index
) -> NDArray[np.intp]:
    """Return the position in ``ids`` of the instance of each row; never by order.

    Raises
    ------
    InputValueError
        Some rows name instances that the region does not hold.
    """
    wanted = pd.Index(annotation.instance_of_row[rows])
    positions = ids.get_indexer(wanted)
    lost = np.flatnonzero(positions < 0)
    if len(lost):
        msg = (
            f"{len(lost):,} of {len(rows):,} rows of {annotation.name!r} name instances not in "
            f"{region!r} (first: {', '.join(str(i) for i in wanted[lost[:3]])}); drop these rows "
            "or correct the instance ids"
        )
        if wanted.dtype != ids.dtype:
            msg += f" (those of the table are {wanted.dtype}, those of the element {ids.dtype})"
        raise InputValueError(msg)
    return positions


def patient_of(
    annotation: Annotation, region: str, rows: NDArray[np.intp], patient_key: str
) -> str:
    """Return the one patient that the rows of a region name.

    Raises
    ------
    InputKeyError
        There is no such column.
    InputValueError
        The rows name none, or more than one.
    """
    obs = annotation.table.obs
    if patient_key not in obs:
        msg = f"there is no column {patient_key!r} in obs of {annotation.name!r}: {list(obs)[:20]}"
        raise InputKeyError(msg)
    patients = obs[patient_key].iloc[rows]
    values = patients.dropna().unique().tolist()
    if len(values) != 1 or patients.isna().any():
        msg = (
            f"patient_key={patient_key!r} needs one value for all rows of region {region!r}, "
            f"found {values[:5]} and {int(patients.isna().sum())} missing; correct the column"
        )
        raise InputValueError(msg)
    return str(require_names(values, f"patients in column {patient_key!r}", read=read_patients)[0])


def array_index_of(table: AnnData, rows: NDArray[np.intp]) -> NDArray[np.int64] | None:
    """Return ``(array_row, array_col)`` of the rows, ``[n, 2]``, if the table has whole ones."""
    columns = ["array_row", "array_col"]
    if not set(columns) <= set(table.obs):
        return None
    obs = table.obs[columns].iloc[rows]
    values = obs.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    if not np.array_equal(values, np.rint(values)):  # NaN equals nothing
        return None
    index: NDArray[np.int64] = values.astype(np.int64)
    return index
