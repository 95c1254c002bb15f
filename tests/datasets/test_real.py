from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rankbygene as rbg
from rankbygene.data import SpatialSetup, TileReader, lattice_kind, resolve_slides

SETUP = SpatialSetup(patient_key="patient")


@pytest.mark.real_data
def test_her2st_section(real_data: Path) -> None:
    sections = rbg.datasets.her2st(real_data / "her2st", ["C3"])
    (frame,) = resolve_slides(sections, SETUP).values()
    assert (frame.slide, frame.n_obs, frame.patient) == ("C3", 180, "C")
    assert frame.um_per_unit == pytest.approx(0.687, rel=0.01)
    assert lattice_kind(frame) == "grid8"
    obs = frame.table.obs
    assert 0.9 < obs["cluster"].notna().mean() <= 1
    assert obs["cluster"].nunique() > 2
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
