from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import dask.array as da
import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from rankbygene.data import SpatialSetup, resolve
from rankbygene.data.counts import _matrix
from rankbygene.data.counts._counts import check_counts
from rankbygene.errors import InputKeyError, InputTypeError, InputValueError, Problems

COUNTS = np.array([[1, 0, 2], [0, 3, 0], [4, 0, 0], [0, 0, 5]], dtype=np.float32)
KINDS = [np.array, sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, da.asarray]


def problems_of(matrix: Any, layer: str | None = None) -> Problems:
    table = AnnData(obs={"n": range(4)}, var={"n": range(3)})
    if layer is None:
        table.X = matrix
    else:
        table.layers[layer] = matrix
    problems = Problems()
    check_counts(table, layer, problems)
    return problems


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint16])
def test_counts_pass_however_they_are_stored(kind: Any, dtype: Any) -> None:
    assert problems_of(kind(COUNTS.astype(dtype))).found == []
    assert problems_of(kind(COUNTS.astype(dtype)), layer="counts").found == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-1.0, "values from -1 to 5"),
        (0.5, r"values from 0(.5)? to 5, 1 of them not integers; looks normalised"),
        (np.nan, "1 NaN or infinite"),
        (np.inf, "1 NaN or infinite"),
    ],
)
def test_other_values_are_refused(
    kind: Any, value: float, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small steps, so that the offending value is not in the first one.
    monkeypatch.setattr(_matrix, "_ROWS_AT_ONCE", 2)
    matrix = COUNTS.copy()
    matrix[3, 0] = value
    problems = problems_of(kind(matrix))
    with pytest.raises(InputValueError, match=text):
        problems.raise_if_any()


def test_layers_are_named_in_the_advice(build: SimpleNamespace) -> None:
    sdata = build.slide()
    table = sdata.tables["table"]
    table.layers["counts"] = table.X.copy()
    table.X = np.log1p(table.X.toarray())
    with pytest.raises(InputValueError, match=r"pass layer='counts' \(layers: \['counts'\]\)"):
        resolve(sdata)
    assert len(resolve(sdata, SpatialSetup(layer="counts"))) == 1
    with pytest.raises(InputKeyError, match=r"no layer 'raw'; the layers are \['counts'\]"):
        resolve(sdata, SpatialSetup(layer="raw"))


def test_slots_without_numbers() -> None:
    with pytest.raises(InputValueError, match="has no X"):
        problems_of(None).raise_if_any()
    with pytest.raises(InputTypeError, match="not numbers"):
        problems_of(COUNTS.astype(str)).raise_if_any()


@pytest.mark.parametrize("kind", KINDS)
def test_empty_spots_are_counted(kind: Any) -> None:
    matrix = COUNTS.copy()
    matrix[[1, 2]] = 0
    with pytest.raises(InputValueError, match=r"2 of 4 spots .*\['1', '2'\].*filter_cells"):
        problems_of(kind(matrix)).raise_if_any()


def test_duplicate_names_are_refused_together(build: SimpleNamespace) -> None:
    sdata = build.slide()
    table = sdata.tables["table"]
    table.var_names = ["a", "b", "a", "c", "b"]
    table.obs_names = ["s", "s", "t", "u"]
    with pytest.raises(InputValueError) as caught:
        resolve(sdata)
    assert "2 var_names occur more than once (first: ['a', 'b'])" in str(caught.value)
    assert "1 obs_names occur more than once (first: ['s'])" in str(caught.value)
