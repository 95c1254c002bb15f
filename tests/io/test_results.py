from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import anndata.io
import numpy as np
import pandas as pd
import pytest
from spatialdata import SpatialData

from rankbygene.io import write_results

OURS = ("X_rankbygene", "layers/rankbygene", "rankbygene_split", "rankbygene_p")


def digests(store: Path) -> dict[str, str]:
    """Bytes of every file that is not ours; group descriptions list their members."""
    return {
        str(file.relative_to(store)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(store.rglob("*"))
        if file.is_file()
        and not any(key in str(file.relative_to(store)) for key in OURS)
        and file.name != "zarr.json"
    }


@pytest.fixture
def stored(model: Any, make_slides: Any, tmp_path: Path) -> tuple[SpatialData, Path]:
    (sdata,) = make_slides(1)
    store = tmp_path / "slide.zarr"
    sdata.write(store)
    backed = SpatialData.read(store)
    model.annotate(backed)
    return backed, store


def test_only_our_keys_are_added(stored: tuple[SpatialData, Path]) -> None:
    sdata, store = stored
    before = digests(store)
    write_results(sdata)
    write_results(sdata)
    assert digests(store) == before
    table, again = sdata["table"], SpatialData.read(store)["table"]
    np.testing.assert_array_equal(again.obsm["X_rankbygene"], table.obsm["X_rankbygene"])
    np.testing.assert_array_equal(again.layers["rankbygene"], table.layers["rankbygene"])
    pd.testing.assert_frame_equal(again.obs, table.obs)
    pd.testing.assert_frame_equal(again.var, table.var)
    assert again.uns["rankbygene_params"]["tile"]["px"] == 32
    assert (again.X != table.X).nnz == 0


@pytest.mark.parametrize("n_written", range(6))
def test_an_interrupted_replacement_leaves_a_table_that_reads(
    stored: tuple[SpatialData, Path], monkeypatch: pytest.MonkeyPatch, n_written: int
) -> None:
    sdata, store = stored
    write_results(sdata)
    counts, columns = sdata["table"].X.copy(), list(sdata["table"].obs)
    write, calls = anndata.io.write_elem, []

    def interrupted(parent: Any, name: str, value: Any) -> None:
        calls.append(name)
        if len(calls) > n_written:
            del parent[name]
            raise KeyboardInterrupt
        write(parent, name, value)

    with monkeypatch.context() as patch:
        patch.setattr(anndata.io, "write_elem", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_results(sdata)
    left = SpatialData.read(store)["table"]
    assert (left.X != counts).nnz == 0
    assert set(left.obs) >= set(columns) - {"rankbygene_split"}
    assert "rankbygene_params" not in left.uns
    write_results(sdata)
    assert list(SpatialData.read(store)["table"].obs) == columns


def test_a_table_in_another_order_is_refused(stored: tuple[SpatialData, Path]) -> None:
    sdata, store = stored
    before = digests(store)
    sdata.tables["table"] = sdata["table"][::-1].copy()
    with pytest.raises(ValueError, match="obs_names.*nothing was written"):
        write_results(sdata)
    assert digests(store) == before
    assert "X_rankbygene" not in SpatialData.read(store)["table"].obsm


def test_what_cannot_be_written_is_said(stored: tuple[SpatialData, Path], make_slides: Any) -> None:
    sdata, _ = stored
    with pytest.raises(ValueError, match=r"sdata\.write\(path\)"):
        write_results(make_slides(1)[0])
    with pytest.raises(KeyError, match="'counts'.*table"):
        write_results(sdata, table_key="counts")
    with pytest.raises(KeyError, match=r"'he'.*annotate"):
        write_results(sdata, key="he")
