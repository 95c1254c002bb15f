from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from scipy.sparse import csc_matrix

from rankbygene.data import TileReader, resolve_slides
from rankbygene.errors import InputValueError
from rankbygene.io import read_visium

PITCH = 40.0  # pixels between neighbours, 100 um


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Space Ranger's layout around an image that tells its coordinates."""
    size = 256
    y, x = np.indices((size, size))
    image = np.stack([x, y, np.zeros_like(x)], 2).astype(np.uint8)
    tifffile.imwrite(tmp_path / "full.tif", image, photometric="rgb")
    (tmp_path / "spatial").mkdir()
    for name, step in (("hires", 2), ("lowres", 4)):
        Image.fromarray(image[::step, ::step]).save(
            tmp_path / "spatial" / f"tissue_{name}_image.png"
        )
    scale = {
        "tissue_hires_scalef": 0.5,
        "tissue_lowres_scalef": 0.25,
        "spot_diameter_fullres": 26.0,
        "fiducial_diameter_fullres": 40.0,
    }
    (tmp_path / "spatial" / "scalefactors_json.json").write_text(json.dumps(scale))
    rows = [
        (f"AAAC{r:02d}{c:02d}-1", 1, r, c, 40 + r * PITCH * np.sqrt(3) / 2, 40 + c * PITCH / 2)
        for r in range(5)
        for c in range(r % 2, 9, 2)
    ]
    positions = pd.DataFrame(rows)
    positions.to_csv(tmp_path / "spatial" / "tissue_positions_list.csv", header=False, index=False)
    barcodes = positions[0].to_numpy()[::-1]
    counts = csc_matrix(np.random.default_rng(0).poisson(2, (3, len(barcodes))) + 1)
    with h5py.File(tmp_path / "filtered_feature_bc_matrix.h5", "w") as file:
        file.attrs["library_ids"] = np.array([b"S1"])
        file.attrs["chemistry_description"] = b"Spatial"
        file.attrs["software_version"] = b"spaceranger-2.0.0"
        matrix = file.create_group("matrix")
        matrix["barcodes"] = barcodes.astype("S")
        matrix["data"], matrix["indices"] = counts.data.astype(np.int32), counts.indices
        matrix["indptr"], matrix["shape"] = counts.indptr, np.array(counts.shape, np.int32)
        features = matrix.create_group("features")
        for key, values in (
            ("id", ["g1", "g2", "g3"]),
            ("name", ["A", "B", "B"]),
            ("feature_type", ["Gene Expression"] * 3),
            ("genome", ["GRCh38"] * 3),
        ):
            features[key] = np.array(values, "S")
    return tmp_path


def test_the_full_resolution_image_is_taken_at_the_lattices_scale(folder: Path) -> None:
    sdata = read_visium(folder, dataset_id="S1", fullres_image_file=folder / "full.tif")
    assert list(sdata["table"].var_names) == ["A", "B", "B-1"]
    (frame,) = resolve_slides(sdata).values()
    assert frame.image_key == "S1_full_image"
    assert frame.um_per_unit == pytest.approx(100 / PITCH, rel=1e-3)
    tiles = TileReader(frame, tile_um=40, tile_px=16).read()
    centers = frame.centers
    np.testing.assert_allclose(tiles[:, 0, 8, 8], centers[:, 0], atol=1)
    np.testing.assert_allclose(tiles[:, 1, 8, 8], centers[:, 1], atol=1)


def test_the_shrunk_picture_is_taken_only_when_named(folder: Path) -> None:
    sdata = read_visium(folder, dataset_id="S1")
    with pytest.raises(ValueError, match=r"image_key='S1_hires_image'"):
        resolve_slides(sdata)
    with pytest.raises(ValueError, match=r"(?s)not a Space Ranger folder.*scalefactors"):
        read_visium(folder / "spatial")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "counts cut": ("filtered_feature_bc_matrix.h5", _cut),
    "counts of something else": (
        "filtered_feature_bc_matrix.h5",
        lambda f: f.write_bytes(b"x" * 99),
    ),
    "counts of another shape": (
        "filtered_feature_bc_matrix.h5",
        lambda f: h5py.File(f, "w").close(),
    ),
    "empty factors": ("spatial/scalefactors_json.json", lambda f: f.write_text("{}")),
    "factors of text": ("spatial/scalefactors_json.json", lambda f: f.write_text("[1]")),
    "no number": (
        "spatial/scalefactors_json.json",
        lambda f: f.write_text(f.read_text().replace("0.5", "NaN")),
    ),
    "no positions": ("spatial/tissue_positions_list.csv", lambda f: f.write_text("")),
    "a column less": (
        "spatial/tissue_positions_list.csv",
        lambda f: f.write_text("\n".join(line.rsplit(",", 1)[0] for line in f.read_text().split())),
    ),
    "text for a number": (
        "spatial/tissue_positions_list.csv",
        lambda f: f.write_text(f.read_text().replace(",40.0,", ",left,")),
    ),
    "a spot less": (
        "spatial/tissue_positions_list.csv",
        lambda f: f.write_text("\n".join(f.read_text().split()[1:])),
    ),
    "a spot twice": (
        "spatial/tissue_positions_list.csv",
        lambda f: f.write_text(f.read_text() + f.read_text().split()[0]),
    ),
    "a picture cut": ("spatial/tissue_hires_image.png", _cut),
    "the slide cut": ("full.tif", lambda f: f.write_bytes(b"II*\0" + b"x" * 99)),
    "the slide a pipe": ("full.tif", lambda f: (f.unlink(), os.mkfifo(f))),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named(folder: Path, damage: str) -> None:
    name, spoil = DAMAGES[damage]
    spoil(folder / name)
    with pytest.raises(InputValueError, match=Path(name).name):
        read_visium(folder, dataset_id="S1", fullres_image_file=folder / "full.tif")


def test_all_that_is_wrong_is_said_at_once(folder: Path) -> None:
    (folder / "spatial" / "tissue_positions_list.csv").rename(
        folder / "spatial" / "tissue_positions.parquet"
    )
    (folder / "spatial" / "scalefactors_json.json").unlink()
    with pytest.raises(InputValueError) as caught:
        read_visium(folder, dataset_id="S1")
    for text in (
        "2 problems",
        "scalefactors_json.json",
        "tissue_positions.parquet, which is not read",
    ):
        assert text in str(caught.value)


@pytest.mark.parametrize("kind", ["tif", "jpg"])
def test_a_slide_on_its_side_is_refused_where_positions_are_meant(folder: Path, kind: str) -> None:
    pixels = tifffile.imread(folder / "full.tif")
    path = folder / f"turned.{kind}"
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels).save(
        path, **({"exif": exif} if kind == "jpg" else {"tiffinfo": {274: 6}})
    )
    with pytest.raises(InputValueError, match=rf"turned\.{kind} is stored on its side"):
        read_visium(folder, dataset_id="S1", fullres_image_file=path)
