from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rankbygene.data import TileReader, resolve_slides
from rankbygene.io import read_legacy_st

STEP = 20


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A 5 x 4 array whose image holds, at each spot, the spot's array coordinates as colour."""
    image = np.full((120, 140, 3), 255, np.uint8)
    rows = []
    for x in range(1, 6):
        for y in range(1, 5):
            px, py = STEP * x, STEP * y
            image[py - 8 : py + 8, px - 8 : px + 8] = (10 * x, 10 * y, 0)
            rows.append({"x": x, "y": y, "pixel_x": px, "pixel_y": py, "selected": int(x < 5)})
    Image.fromarray(image).save(tmp_path / "image.png")
    spots = pd.DataFrame(rows).sample(frac=1, random_state=1)
    spots.to_csv(tmp_path / "spots.tsv", sep="\t", index=False)
    ids = [f"{r['x']}x{r['y']}" for r in rows[3:]] + ["99x99"]
    counts = pd.DataFrame(
        np.arange(len(ids) * 3).reshape(-1, 3) + 1, index=ids, columns=["A", "B", "B2"]
    )
    counts.sample(frac=1, random_state=2).to_csv(tmp_path / "counts.tsv.gz", sep="\t")
    return {
        name: tmp_path / file
        for name, file in (
            ("counts", "counts.tsv.gz"),
            ("image", "image.png"),
            ("spots", "spots.tsv"),
        )
    }


def test_spots_counts_and_image_meet(files: dict[str, Path]) -> None:
    sdata = read_legacy_st(**files, scale_factors=None)
    (frame,) = resolve_slides(sdata).values()
    # 16 selected spots, of which three have no counts.
    assert frame.n_obs == 13
    assert frame.um_per_unit == pytest.approx(200 / STEP)
    tiles = TileReader(frame, tile_um=100, tile_px=10).read()
    index = frame.array_index
    assert index is not None
    np.testing.assert_array_equal(tiles[:, 0, 5, 5], 10 * index[:, 1])
    np.testing.assert_array_equal(tiles[:, 1, 5, 5], 10 * index[:, 0])
    raw = pd.read_csv(files["counts"], sep="\t", index_col=0)
    np.testing.assert_array_equal(frame.table.X.toarray(), raw.loc[list(frame.obs_names)])


def test_places_are_joined_as_numbers(files: dict[str, Path]) -> None:
    plain = read_legacy_st(**files, scale_factors=None)["table"]
    counts = pd.read_csv(files["counts"], sep="\t", index_col=0)
    counts.index = [name.replace("x", ".0x") + ".00" for name in counts.index]
    counts.to_csv(files["counts"], sep="\t")
    table = read_legacy_st(**files, scale_factors=None)["table"]
    assert list(table.obs_names[:2]) == list(counts.index[:2])
    np.testing.assert_array_equal(table.X.toarray(), plain.X.toarray())
    columns = ["array_row", "array_col"]
    np.testing.assert_array_equal(table.obs[columns], plain.obs[columns])
    # ids that have become floats, because one was missing in the other table
    spots = pd.read_csv(files["spots"], sep="\t").assign(id=np.arange(20) + 100)
    spots.astype({"id": float}).to_csv(files["spots"], sep="\t", index=False)
    counts.set_axis(np.arange(len(counts)) + 100, axis=0).to_csv(files["counts"], sep="\t")
    numbered = read_legacy_st(**files, spot_id="id", scale_factors=None)["table"]
    kept = spots.loc[spots["selected"] == 1, "id"]
    assert set(numbered.obs_names) == set(kept[kept < 100 + len(counts)].astype(str))


def test_bad_files_are_named(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=r"spots\.tsv has no column \['layer'\]"):
        read_legacy_st(**files, obs_columns=["layer"])
    with pytest.raises(ValueError, match=r"missing\.tsv"):
        read_legacy_st(tmp_path / "missing.tsv", files["image"], files["spots"])
    with pytest.raises(ValueError, match=r"spots\.tsv cannot be read as an image"):
        read_legacy_st(files["counts"], files["spots"], files["spots"])
    with pytest.raises(ValueError, match="4 spots are repeated"):
        read_legacy_st(**files, spot_id="pixel_x")
    counts = pd.read_csv(files["counts"], sep="\t", index_col=0)
    for change, text in ((counts + 0.5, "not counts"), (pd.concat([counts, counts]), "repeated")):
        change.to_csv(tmp_path / "bad.tsv", sep="\t")
        with pytest.raises(ValueError, match=text):
            read_legacy_st(tmp_path / "bad.tsv", files["image"], files["spots"])


def test_an_array_that_is_not_square_is_refused(files: dict[str, Path]) -> None:
    spots = pd.read_csv(files["spots"], sep="\t")
    spots["pixel_y"] *= 1.3
    spots.to_csv(files["spots"], sep="\t", index=False)
    with pytest.raises(ValueError, match="no square array.*um_per_px"):
        read_legacy_st(**files)


def test_pillows_limit_is_left_as_it_is(files: dict[str, Path], monkeypatch: Any) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5_000)
    with pytest.raises(ValueError, match="cannot be read.*decompression bomb"):
        read_legacy_st(**files)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    read_legacy_st(**files)
    assert Image.MAX_IMAGE_PIXELS == 10_000
