from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy.sparse import csr_matrix

from rankbygene.data import TileReader, resolve_slides
from rankbygene.io import read_hest

N = 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sample whose image tells its coordinates: red is the column, green the row."""
    y, x = np.indices((256, 300))
    image = np.stack([x % 256, y, np.zeros_like(x)], 2).astype(np.uint8)
    for name in ("st", "wsis", "metadata"):
        (tmp_path / name).mkdir()
    with tifffile.TiffWriter(tmp_path / "wsis" / "S1.tif") as writer:
        writer.write(image, tile=(64, 64), photometric="rgb", subifds=1)
        writer.write(image[::2, ::2], tile=(64, 64), photometric="rgb", subfiletype=1)
    rng = np.random.default_rng(0)
    centers = np.stack([rng.integers(20, 250, N), rng.integers(20, 230, N)], 1)
    table = ad.AnnData(
        X=csr_matrix(rng.poisson(3, (N, 5)).astype(np.float32) + 1),
        obs=pd.DataFrame(
            {"array_row": np.arange(N), "array_col": 0}, index=[f"b{i}" for i in range(N)]
        ),
        obsm={"spatial": centers},
    )
    table[rng.permutation(N)].copy().write_h5ad(tmp_path / "st" / "S1.h5ad")
    metadata = {"pixel_size_um_estimated": 0.5, "patient": "P7"}
    (tmp_path / "metadata" / "S1.json").write_text(json.dumps(metadata))
    return tmp_path


def test_tiles_lie_on_their_spots(folder: Path) -> None:
    sdata = read_hest("S1", folder)
    (frame,) = resolve_slides(sdata).values()
    assert frame.um_per_unit == pytest.approx(0.5)
    tiles = TileReader(frame, tile_um=8, tile_px=16).read()
    stored = ad.read_h5ad(folder / "st" / "S1.h5ad")
    assert list(frame.obs_names) == list(stored.obs_names)
    np.testing.assert_array_equal(tiles[:, 0, 8, 8], stored.obsm["spatial"][:, 0])
    np.testing.assert_array_equal(tiles[:, 1, 8, 8], stored.obsm["spatial"][:, 1])
    assert set(sdata["table"].obs["patient"]) == {"P7"}


def test_what_is_missing_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"'S2' is not complete.*S2\.h5ad.*S2\.tif"):
        read_hest("S2", folder)
    (folder / "metadata" / "S1.json").write_text(json.dumps({"pixel_size_um_estimated": None}))
    with pytest.raises(ValueError, match="pixel_size_um_estimated"):
        read_hest("S1", folder)
    (folder / "metadata" / "S1.json").write_text("{")
    with pytest.raises(ValueError, match=r"S1\.json cannot be read as JSON"):
        read_hest("S1", folder)


def test_a_picture_that_is_none_is_named(folder: Path) -> None:
    (folder / "wsis" / "S1.tif").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"S1\.tif cannot be read as TIFF"):
        read_hest("S1", folder)


def test_offline_says_how_to_get_the_sample(monkeypatch: Any) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(ValueError, match=r"huggingface\.co/datasets/MahmoodLab/hest.*path="):
        read_hest("TENX95")
