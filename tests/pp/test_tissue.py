from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from shapely.geometry import Point
from spatialdata import SpatialData
from spatialdata.models import Image2DModel
from spatialdata.transformations import Identity, Scale, get_transformation

from rankbygene.data import frame_from_shapes
from rankbygene.errors import InputKeyError, InputTypeError, InputValueError, OutputExistsError
from rankbygene.pp import find_tissue_tiles, tile_tissue
from rankbygene.pp._mask import share_of_windows, tissue_mask, tissue_pieces

HEIGHT, WIDTH = 600, 800
PURPLE, GLASS = (150, 90, 160), (238, 236, 230)


def picture(tissue, *, noise=3, seed=0):
    """Purple where there is tissue, yellowish glass elsewhere, with the grain of a camera."""
    colors = np.where(tissue, np.array(PURPLE)[:, None, None], np.array(GLASS)[:, None, None])
    grain = np.random.default_rng(seed).normal(0, noise, colors.shape)
    return np.clip(colors + grain, 0, 255).astype(np.uint8)


def disc(center=(300, 450), radius=180):
    y, x = np.ogrid[:HEIGHT, :WIDTH]
    return (y + 0.5 - center[0]) ** 2 + (x + 0.5 - center[1]) ** 2 < radius**2


def slide(pixels, *, scale_factors=None, um=0.5, systems=None):
    systems = {"global": Identity(), "um": Scale([um, um], axes=("x", "y"))} | (systems or {})
    image = Image2DModel.parse(
        pixels,
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations=systems,
        scale_factors=scale_factors,
    )
    return SpatialData(images={"he": image})


@pytest.mark.parametrize("scale_factors", [None, [2, 2]])
def test_tiles_cover_the_tissue_and_nothing_else(scale_factors):
    sdata = slide(picture(disc()), scale_factors=scale_factors)
    tile_tissue(sdata, tile_um=20)
    tiles = sdata["tissue_tiles"]
    assert set(get_transformation(tiles, get_all=True)) == {"global", "um"}
    bounds = tiles.bounds.to_numpy()
    np.testing.assert_allclose(bounds[:, 2:] - bounds[:, :2], 40)
    area = np.pi * 180**2
    assert abs(tiles["tissue"].sum() * 1600 / area - 1) < 0.03
    true = Point(450, 300).buffer(180)
    share = tiles.geometry.intersection(true).area / 1600
    assert np.abs(share - tiles["tissue"]).max() < 0.12
    # tiles that are clearly tissue are there, once
    assert true.difference(tiles.union_all()).area < 0.05 * area
    assert np.isclose(tiles.union_all().area, tiles.area.sum())
    frame = frame_from_shapes(sdata, "tissue_tiles", image_key="he")
    np.testing.assert_allclose(frame.centers, bounds[:, :2] + 20)
    assert frame.um_per_unit == 0.5


def test_step_share_and_scale_are_the_users():
    sdata = slide(picture(disc()))
    name, tiles = find_tissue_tiles(sdata, tile_um=20, step_um=10, min_tissue=1)
    assert name == "he"
    assert "tissue_tiles" not in sdata
    assert (tiles["tissue"] == 1).all()
    left = np.unique(tiles.bounds["minx"])
    np.testing.assert_allclose(np.diff(left), 20)
    _, coarse = find_tissue_tiles(sdata, "he", tile_um=20, um_per_px=0.25)
    np.testing.assert_allclose(coarse.area, 80**2)
    # where the image is in a scaled system, its pixels count
    scaled = slide(picture(disc()), systems={"global": Scale([4, 4], axes=("x", "y"))})
    _, tiles = find_tissue_tiles(scaled, tile_um=20)
    np.testing.assert_allclose(tiles.area, 40**2)


def test_an_image_full_of_tissue_is_covered_whole():
    _, tiles = find_tissue_tiles(
        slide(picture(np.ones((HEIGHT, WIDTH), bool), noise=12)), tile_um=20
    )
    assert len(tiles) == (HEIGHT // 40) * (WIDTH // 40)


@pytest.mark.parametrize(
    "background", [(255, 255, 255), (238, 236, 222), (120, 120, 120), (0, 0, 0)]
)
def test_an_image_without_tissue_is_refused(background):
    pixels = np.tile(np.array(background)[:, None, None], (1, HEIGHT, WIDTH))
    pixels = np.clip(pixels + np.random.default_rng(0).normal(0, 2, pixels.shape), 0, 255)
    with pytest.raises(InputValueError, match="no tissue found in image 'he': of 12 tiles of 100"):
        find_tissue_tiles(slide(pixels.astype(np.uint8)), tile_um=100)


def test_the_image_is_not_guessed():
    fine = slide(picture(disc()))
    small = slide(
        picture(disc())[:, ::4, ::4], um=2.0, systems={"global": Scale([4, 4], ("x", "y"))}
    )
    both = SpatialData(images={"small": small["he"], "fine": fine["he"]})
    with pytest.raises(InputValueError, match="2 images could be.*'small'.*'fine'.*image_key"):
        find_tissue_tiles(both)
    assert find_tissue_tiles(both, "small")[0] == "small"
    library = SpatialData(images={"S_hires_image": small["he"], "S_full_image": fine["he"]})
    assert find_tissue_tiles(library)[0] == "S_full_image"


def test_existing_elements_are_kept():
    sdata = slide(picture(disc()))
    tile_tissue(sdata)
    with pytest.raises(OutputExistsError, match="an element named 'tissue_tiles' exists"):
        tile_tissue(sdata)
    n_before = len(sdata["tissue_tiles"])
    tile_tissue(sdata, tile_um=20, overwrite=True)
    assert len(sdata["tissue_tiles"]) > n_before
    with pytest.raises(OutputExistsError, match="an element named 'he' exists"):
        tile_tissue(sdata, key_added="he", overwrite=True)


def test_pieces_are_counted_and_chosen(caplog):
    two = disc((300, 250), 150) | disc((300, 650), 100) | disc((50, 50), 8)
    sdata = slide(picture(two))
    _, tiles = find_tissue_tiles(sdata, tile_um=20)
    assert sorted(tiles["piece"].unique()) == [1, 2]
    assert "shows 2 separate pieces of tissue" in caplog.text
    assert "of which 2 are covered" in caplog.text
    x = tiles.geometry.centroid.x.to_numpy()
    assert (x[tiles["piece"] == 1] < 425).all()
    assert (x[tiles["piece"] == 2] > 525).all()
    _, largest = find_tissue_tiles(sdata, tile_um=20, pieces="largest")
    _, first = find_tissue_tiles(sdata, tile_um=20, pieces=1)
    assert len(largest) == len(first) == (tiles["piece"] == 1).sum()
    _, crumbs = find_tissue_tiles(sdata, tile_um=20, min_area_um2=0, min_tissue=0.1)
    assert crumbs["piece"].max() == 3
    _, large = find_tissue_tiles(sdata, tile_um=20, min_area_um2=10_000)
    assert len(large) == len(first)
    for pieces in ("most", 0, 1.5, True):
        with pytest.raises((InputTypeError, InputValueError), match=r"pieces (is|must be) "):
            find_tissue_tiles(sdata, tile_um=20, pieces=pieces)
    with pytest.raises(InputValueError, match="min_area_um2"):
        find_tissue_tiles(sdata, tile_um=20, min_area_um2=-1)


def test_what_only_looks_like_tissue_is_left_out():
    """Dye on glass has no texture, a frame and a hair have no stain, and a hair is thin."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    tissue = disc((300, 250), 150)
    pixels = picture(np.zeros_like(tissue)).astype(float)
    halo = np.clip(1 - np.hypot(y - 300, x - 400) / 250, 0, 1)
    pixels -= halo * np.array([0, 55, 25])[:, None, None]
    pale = np.array([205, 190, 210])[:, None, None] + rng.normal(0, 14, (1, HEIGHT, WIDTH))
    pixels = np.where(tissue, pale, pixels)
    pixels[:, :40] = rng.integers(90, 200, (1, 40, WIDTH))  # a frame, grey
    pixels[:, 540:544, 300:] = np.array(PURPLE)[:, None, None]
    _, tiles = find_tissue_tiles(slide(np.clip(pixels, 0, 255).astype(np.uint8)), tile_um=20)
    found, true = tiles.union_all(), Point(250, 300).buffer(150)
    assert true.intersection(found).area > 0.95 * true.area
    assert found.difference(true.buffer(60)).area == 0


def test_memory_is_bounded_for_slides_of_any_size(monkeypatch):
    monkeypatch.setattr("rankbygene.pp._mask._MOST_SAMPLES", 10_000)
    mask = tissue_mask(slide(picture(disc()))["he"], 40)
    assert 2_000 < mask.size <= 10_000
    assert abs(mask.mean() / disc().mean() - 1) < 0.15


def test_impossible_requests_are_refused():
    sdata = slide(picture(disc()))
    with pytest.raises(InputKeyError, match=r"no image 'x'; the images are \['he'\]"):
        tile_tissue(sdata, "x")
    with pytest.raises(InputValueError, match="min_tissue"):
        tile_tissue(sdata, min_tissue=0)
    with pytest.raises(InputValueError, match="there is no image"):
        tile_tissue(SpatialData())
    unknown = Image2DModel.parse(picture(disc()), dims=("c", "y", "x"))
    with pytest.raises(InputValueError, match="Pass um_per_px"):
        tile_tissue(SpatialData(images={"he": unknown}))
    apart = [
        Image2DModel.parse(picture(disc()), dims=("c", "y", "x"), transformations={s: Identity()})
        for s in "ab"
    ]
    with pytest.raises(InputValueError, match="2 images could be"):
        tile_tissue(SpatialData(images=dict(zip("ab", apart, strict=True))))


def test_shares_of_windows_are_counted():
    mask = np.zeros((6, 8), dtype=bool)
    mask[1:4, 2:5] = True
    share = share_of_windows(
        mask, np.array([20.0, 40.0, -20.0]), np.array([10.0, 30.0, -20.0]), 30.0, (60, 80)
    )
    np.testing.assert_allclose(share, [1, 1 / 9, 0])


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("image", "spots", "um", "area"),
    [
        ("mob_stahl/Rep11.jpg", "mob_stahl/Rep11_spots.csv", 2.75, (0.2, 0.3)),
        ("her2st_patient_a/A1.png", "her2st_patient_a/A1_spots.csv", 3.18, (0.3, 0.4)),
        ("crc16_visium/spatial/tissue_hires_image.png", None, 4.54, (0.38, 0.46)),
    ],
)
def test_spots_of_real_tissue_lie_on_the_mask(real_data, image, spots, um, area):
    """Pale tissue, a second picture in the picture, a frame of printed dots."""
    import pandas as pd

    pixels = np.asarray(Image.open(real_data / image).convert("RGB")).transpose(2, 0, 1)
    if spots is not None:
        centers = pd.read_csv(real_data / spots)[["pixel_x", "pixel_y"]].to_numpy()
    else:
        folder = real_data / "crc16_visium/spatial"
        places = pd.read_csv(folder / "tissue_positions_list.csv", header=None)
        factor = json.loads((folder / "scalefactors_json.json").read_text())["tissue_hires_scalef"]
        centers = places.loc[places[1] == 1, [5, 4]].to_numpy() * factor
    element = Image2DModel.parse(pixels, dims=("c", "y", "x"), c_coords=["r", "g", "b"])
    side = 112 / um
    mask = tissue_mask(element, side)
    largest = tissue_pieces(mask, min_samples=256) == 1
    corners = (centers - side / 2).T
    share = share_of_windows(largest, *corners, side, pixels.shape[1:])
    assert np.mean(share >= 0.25) > 0.99
    assert area[0] < largest.mean() < area[1]
