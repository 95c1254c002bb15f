from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import rankbygene as rbg
from rankbygene.data import SpatialSetup, TileReader, lattice_kind, resolve_slides
from rankbygene.datasets._real import _clusters
from rankbygene.errors import InputValueError

SETUP = SpatialSetup(patient_key="patient")


@pytest.mark.real_data
def test_her2st_section(real_data: Path) -> None:
    sections = rbg.datasets.her2st(real_data / "her2st", ["C3"])
    (frame,) = resolve_slides(sections, SETUP).values()
    assert (frame.slide, frame.n_obs, frame.patient) == ("C3", 180, "C")
    assert frame.um_per_unit == pytest.approx(0.687, rel=0.01)
    assert lattice_kind(frame) == "grid8"
    obs = frame.table.obs
    assert obs["cluster"].notna().sum() == 179
    assert obs["cluster"].nunique() > 2
    published = pd.read_csv(
        real_data / "her2st/ST-cluster/C3-cluster-annotation.tsv.gz", sep="\t", index_col=0
    ).set_index(["x", "y"])["label"]
    places = zip(obs["array_col"], obs["array_row"], strict=True)
    expected = [published.get(place) for place in places]
    assert [None if pd.isna(c) else int(c) for c in obs["cluster"]] == expected
    # Spots lie on tissue, which is darker than the glass around it.
    tiles = TileReader(frame, tile_um=100, tile_px=32).read()
    assert np.median(tiles.mean((1, 2, 3))) < 225


@pytest.mark.real_data
def test_olfactory_bulb_arrays(real_data: Path) -> None:
    dense = rbg.datasets.olfactory_bulb(real_data / "stutility_mob")
    frames = resolve_slides(dense, SETUP)
    assert [frame.n_obs for frame in frames.values()] == [379, 407, 438, 403]
    assert [frame.patient for frame in frames.values()] == ["mouse_1"] * 2 + ["mouse_2"] * 2
    for frame in frames.values():
        assert frame.um_per_unit == pytest.approx(4.4, rel=0.02)
        assert "mt-Rnr2" in frame.table.var_names
    stahl = rbg.datasets.olfactory_bulb(real_data / "mob_stahl", array="stahl")
    (frame,) = resolve_slides(stahl).values()
    assert frame.um_per_unit == pytest.approx(2.7, rel=0.03)
    assert frame.table.obs["layer"].nunique() == 5
    assert frame.table.obs["layer"].notna().all()


@pytest.mark.real_data
def test_visium_needs_its_picture_named_and_fine_enough(real_data: Path) -> None:
    sdata = rbg.io.read_visium(real_data / "crc16_visium", dataset_id="crc16")
    with pytest.raises(ValueError, match=r"full-resolution image.*image_key='crc16_hires_image'"):
        resolve_slides(sdata)
    (frame,) = resolve_slides(sdata, SpatialSetup(image_key="crc16_hires_image")).values()
    assert frame.n_obs == 3106
    assert lattice_kind(frame) == "hex6"
    with pytest.raises(ValueError, match=r"25 px.*crc16_hires_image"):
        TileReader(frame, tile_um=112, tile_px=224)
    assert TileReader(frame, tile_um=112, tile_px=24).plan.side == 25


def test_where_the_data_is_published_is_said(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.delenv("RANKBYGENE_DATA", raising=False)
    with pytest.raises(ValueError, match=r"path=.*github\.com/almaan/her2st.*RANKBYGENE_DATA"):
        rbg.datasets.her2st()
    with pytest.raises(ValueError, match="is not a folder"):
        rbg.datasets.olfactory_bulb(tmp_path / "missing")
    with pytest.raises(KeyError, match="has sections"):
        rbg.datasets.her2st(tmp_path)


def test_clusters_are_joined_by_place_and_not_by_its_text(tmp_path: Path) -> None:
    spots = pd.DataFrame({"pixel_x": [6701.0, 12.3, 500.0], "pixel_y": [10.25, 40.0, 7e5]})
    path = tmp_path / "S-cluster-annotation.tsv"
    path.write_text("\tlabel\n12.30x40\t10\n6701x10.250\t2\n")
    found = _clusters(path, spots)
    assert [None if pd.isna(name) else name for name in found] == ["2", "10", None]
    assert list(found.categories) == ["2", "10"]
    for text, match in (
        ("\tlabel\n12.3x90\t1\n6701x10.25\t2\n", "1 of its 2 labels lie at one of the 3 spots"),
        ("\tlabel\n12.3\t1\n", "rows must be named"),
    ):
        path.write_text(text)
        with pytest.raises(InputValueError, match=match):
            _clusters(path, spots)
