"""Stores that an interrupted write left broken."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from spatialdata import SpatialData
from typer.testing import CliRunner

from rankbygene.cli import app
from rankbygene.io import repair_store, write_results

PARAMS = "tables/table/uns/rankbygene_params"


@pytest.fixture
def store(model: Any, make_slides: Any, tmp_path: Path) -> Path:
    path = tmp_path / "slide.zarr"
    make_slides(1)[0].write(path)
    backed = SpatialData.read(path)
    model.annotate(backed)
    write_results(backed)
    return path


def others(store: Path) -> dict[str, str]:
    """Bytes of counts, images and shapes."""
    return {
        str(file.relative_to(store)): hashlib.sha256(file.read_bytes()).hexdigest()
        for folder in ("images", "shapes", "tables/table/X")
        for file in (store / folder).rglob("*")
        if file.is_file()
    }


def without_encoding(store: Path) -> None:
    """What a kill between two attributes of a number left."""
    file = store / PARAMS / "tile" / "um" / "zarr.json"
    metadata = json.loads(file.read_text())
    metadata["attributes"] = {"encoding-type": "numeric-scalar"}
    file.write_text(json.dumps(metadata))


def without_metadata(store: Path) -> None:
    (store / PARAMS / "tile" / "um" / "zarr.json").unlink()


def without_slides(store: Path) -> None:
    """What a kill after some of the entries left: it reads, and is not whole."""
    shutil.rmtree(store / PARAMS / "slides")


def empty(store: Path) -> None:
    for item in (store / PARAMS).iterdir():
        if item.is_dir():
            shutil.rmtree(item)


def column_without_array(store: Path) -> None:
    shutil.rmtree(store / "tables/table/obs/rankbygene_split")


def column_cut_short(store: Path) -> None:
    (codes,) = (store / "tables/table/obs/rankbygene_split/codes/c").rglob("0")
    codes.write_bytes(codes.read_bytes()[:3])


def latent_without_attributes(store: Path) -> None:
    (store / "tables/table/obsm/X_rankbygene/zarr.json").write_text("{")


DAMAGES = [
    without_encoding,
    without_metadata,
    empty,
    column_without_array,
    column_cut_short,
    latent_without_attributes,
]


@pytest.mark.parametrize("damage", [*DAMAGES, without_slides])
def test_a_damaged_store_is_mended_and_nothing_else_changes(store: Path, damage: Any) -> None:
    before = others(store)
    damage(store)
    files = {file: file.read_bytes() for file in store.rglob("*") if file.is_file()}
    said = repair_store(store)
    assert said
    assert files == {file: file.read_bytes() for file in store.rglob("*") if file.is_file()}
    assert all(finding.remedy for finding in said)
    repair_store(store, apply=True)
    assert repair_store(store) == []
    assert others(store) == before
    table = SpatialData.read(store)["table"]
    assert table.n_obs == 40
    assert "rankbygene" in table.layers
    listed = json.loads((store / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
    assert {f"{PARAMS}/slides"} & set(listed) == (
        {f"{PARAMS}/slides"} if "rankbygene_params" in table.uns else set()
    )


def test_a_store_in_order_stays_as_it_is(store: Path) -> None:
    files = {file: file.read_bytes() for file in store.rglob("*") if file.is_file()}
    assert repair_store(store, apply=True) == []
    assert files == {file: file.read_bytes() for file in store.rglob("*") if file.is_file()}


def test_what_others_wrote_is_named_and_left_alone(store: Path) -> None:
    root = zarr.open_group(store / "tables/table", mode="r+", use_consolidated=False)
    root["uns"].create_array("note", data=np.arange(3))
    root["uns/note"].attrs.update({"encoding-type": "new", "encoding-version": "9"})
    write = [finding for finding in repair_store(store, apply=True) if "note" in finding.place]
    assert [finding.remedy for finding in write] == [""]
    assert "left alone" in str(write[0])
    assert (store / "tables/table/uns/note").exists()


def test_the_command_says_what_it_would_do_first(store: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    without_encoding(store)
    said = run(app, ["repair", str(store)])
    assert said.exit_code == 0
    assert "rankbygene_params: cannot be read" in said.output
    assert "nothing was changed" in said.output
    with pytest.raises(Exception, match="um"):
        SpatialData.read(store)
    assert "done: " in run(app, ["repair", str(store), "--apply"]).output
    assert "in order" in run(app, ["repair", str(store)]).output
    SpatialData.read(store)
    (tmp_path / "empty").mkdir()
    assert run(app, ["repair", str(tmp_path / "empty")]).exit_code == 2
