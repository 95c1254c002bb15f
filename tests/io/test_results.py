from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata.io
import numpy as np
import pandas as pd
import pytest
import zarr
from spatialdata import SpatialData

from rankbygene.errors import InputValueError, OutputFailedError
from rankbygene.io import _update, write_results
from rankbygene.io._update import (
    Element,
    column_order,
    finish_update,
    is_interrupted,
    replace_elements,
)

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


def operations(work: Callable[[], None], *, kill_at: int | None, log: Path) -> int | None:
    """Count what ``work`` does to files, in a process of its own that is killed at one of them.

    Returns the number of operations, None if the process was killed.
    """
    child = os.fork()
    if child == 0:
        n = 0

        def watch(event: str, args: tuple[Any, ...]) -> None:
            nonlocal n
            changes = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link") or (
                event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
            )
            if changes and not str(args[0]).startswith("/dev"):
                if n == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                n += 1

        try:
            sys.addaudithook(watch)
            work()
            log.write_text(str(n))
        finally:
            os._exit(0 if log.exists() else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGKILL:
        return None
    assert status == 0
    n_operations = int(log.read_text())
    log.unlink()
    return n_operations


def elements(value: float) -> list[tuple[Element, Any]]:
    """Results whose every part says which ones they are."""
    labels = pd.Categorical([f"{value}"] * 40)
    return [
        (Element("obsm", "X_a"), np.full((40, 3), value, np.float32)),
        (Element("obs", "a_split"), labels),
        (Element("var", "a_pearson"), np.full(30, value)),
        (Element("uns", "a_params"), {"mark": value, "nested": {"text": "t"}}),
    ]


def marks(store: Path) -> set[float]:
    """Which results a store holds whole; it must read, and never give parts of different ones."""
    table = anndata.io.read_elem(zarr.open_group(store, mode="r")["table"])
    if "a_params" not in table.uns:
        return set()
    found = {
        float(table.obsm["X_a"][0, 0]),
        float(table.obs["a_split"].iloc[0]),
        float(table.var["a_pearson"].iloc[0]),
        float(table.uns["a_params"]["mark"]),
    }
    assert len(found) == 1
    return found


@pytest.mark.parametrize("replaces", [False, True])
def test_a_kill_at_any_moment_loses_nothing(
    make_slides: Any, tmp_path: Path, replaces: bool
) -> None:
    pristine, store, log = tmp_path / "pristine", tmp_path / "store", tmp_path / "log"
    root = zarr.open_group(pristine, mode="w")
    anndata.io.write_elem(root, "table", make_slides(1)[0]["table"])
    if replaces:
        replace_elements(pristine, "table", elements(1.0))
    before, columns = marks(pristine), column_order(pristine / "table" / "obs")

    def work() -> None:
        replace_elements(store, "table", elements(2.0))

    shutil.copytree(pristine, store)
    n = operations(work, kill_at=None, log=log)
    assert n is not None
    seen = set()
    # Every operation around the exchange, and some of the many that write what lies aside.
    for kill_at in sorted({*range(0, n - 40, 9), *range(n - 40, n)}):
        shutil.rmtree(store)
        shutil.copytree(pristine, store)
        assert operations(work, kill_at=kill_at, log=log) is None
        assert marks(store) in (before, set(), {2.0})
        finish_update(store)
        after = marks(store)
        assert after in (before, {2.0})
        seen |= after
        assert not [item.name for item in store.rglob("*") if _is_litter(item)]
        order = column_order(store / "table" / "obs")
        assert order == columns if replaces else set(order) - {"a_split"} == set(columns)
    assert seen == {2.0} | before


def _is_litter(item: Path) -> bool:
    return item.name.endswith((".partial", ".new", ".lock")) or item.name.startswith(".rankbygene")


def test_a_full_disk_leaves_the_store_as_it_was(
    stored: tuple[SpatialData, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sdata, store = stored
    write_results(sdata)
    before = {str(file): file.read_bytes() for file in store.rglob("*") if file.is_file()}
    write = anndata.io.write_elem

    def full(parent: Any, name: str, value: Any) -> None:
        write(parent, name, value)
        if name == "rankbygene_split":
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(anndata.io, "write_elem", full)
        with pytest.raises(OutputFailedError, match=r"slide\.zarr could not be written"):
            write_results(sdata)
    assert before == {str(file): file.read_bytes() for file in store.rglob("*") if file.is_file()}
    write_results(sdata)


def test_what_reads_otherwise_than_it_was_written_is_refused(
    stored: tuple[SpatialData, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sdata, store = stored
    write = anndata.io.write_elem

    def wrong(parent: Any, name: str, value: Any) -> None:
        write(parent, name, value + 1 if name == "X_rankbygene" else value)

    monkeypatch.setattr(anndata.io, "write_elem", wrong)
    with pytest.raises(OutputFailedError, match="X_rankbygene.*reads otherwise"):
        write_results(sdata)
    assert "X_rankbygene" not in SpatialData.read(store)["table"].obsm
    assert not is_interrupted(store)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_elements_are_replaced_in_stores_of_both_formats(
    make_slides: Any, tmp_path: Path, zarr_format: int
) -> None:
    store = tmp_path / "store"
    root = zarr.open_group(store, mode="w", zarr_format=zarr_format)
    anndata.io.write_elem(root, "table", make_slides(1)[0]["table"])
    for value in (1.0, 2.0):
        array = np.full((40, 3), value, np.float32)
        labels = pd.Categorical(["a", "b"] * 20)
        replace_elements(
            store,
            "table",
            [
                (Element("obsm", "x"), array),
                (Element("obs", "label"), labels),
                (Element("uns", "seal"), {"a": {"b": value}}),
            ],
        )
        table = anndata.io.read_elem(zarr.open_group(store)["table"])
        np.testing.assert_array_equal(table.obsm["x"], array)
        assert list(table.obs["label"]) == list(labels)
        assert table.uns["seal"]["a"]["b"] == value
    listed = (store / (".zmetadata" if zarr_format == 2 else "zarr.json")).read_text()
    assert "uns/seal/a/b" in listed


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


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"X_a"', '"X_b"'),
        lambda text: text[:-9],
        lambda text: "[" * 100_000,
        lambda text: '{"format": 1, "table": "../..", "elements": [], "columns": {}}',
        lambda text: (
            '{"format": 1, "table": "table", "columns": {"obs": [], "var": []}, '
            '"elements": [{"slot": "obs", "name": "../../../x"}]}'
        ),
    ],
    ids=["name", "end", "depth", "outside", "no place"],
)
def test_a_damaged_journal_moves_nothing(
    make_slides: Any, tmp_path: Path, change: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    anndata.io.write_elem(zarr.open_group(store, mode="w"), "table", make_slides(1)[0]["table"])
    replace_elements(store, "table", elements(1.0))
    with monkeypatch.context() as patch:
        patch.setattr(_update, "_move", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            replace_elements(store, "table", elements(2.0))
    journal = store / ".rankbygene" / "journal.json"
    journal.write_text(change(journal.read_text()))
    before = {str(item.relative_to(store)) for item in store.rglob("*")}
    with pytest.raises(InputValueError, match=r"journal\.json.*Delete .*rankbygene repair"):
        finish_update(store)
    assert before == {str(item.relative_to(store)) for item in store.rglob("*")}
    shutil.rmtree(journal.parent)
    assert marks(store) == {1.0}
