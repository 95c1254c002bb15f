from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
from spatialdata import SpatialData
from spatialdata.transformations import Identity, set_transformation

from rankbygene.data import SpatialSetup, resolve
from rankbygene.errors import InputKeyError, InputTypeError, InputValueError


def add_image(sdata: SpatialData, build: SimpleNamespace, name: str, factor: float) -> None:
    systems = {"global": build.scale(factor), "um": build.scale(factor / 2)}
    sdata.images[name] = build.image(build.picture(60, 80), systems)


def test_other_stains_are_never_taken_for_the_tissue(
    build: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    """Not one channel, and not three finer ones of 8 bits either; what they are is in their names."""
    sdata = build.slide()
    for name, channels in {
        "if": ["DAPI", "CD3", "CD8"],
        "dapi": ["DAPI"],
        "picked": [0, 2, 3],
    }.items():
        stain = np.zeros((len(channels), 900, 900), np.uint8)
        sdata.images[name] = build.image(stain, {"global": build.scale(0.1)}, c_coords=channels)
    with caplog.at_level(logging.INFO, logger="rankbygene"):
        (frame,) = resolve(sdata)
    assert frame.image_key == "he"
    assert "took the image 'he' (others: ['if', 'dapi', 'picked'])" in caplog.text
    del sdata.images["he"]
    with pytest.raises(InputValueError, match=r"'CD3'.*not red, green and blue.*image_key='if'"):
        resolve(sdata, SpatialSetup(um_per_px=0.5))
    (frame,) = resolve(sdata, SpatialSetup(image_key="if", um_per_px=0.5))
    assert frame.image_key == "if"
    assert "['DAPI', 'CD3', 'CD8'] are taken for red, green and blue" in caplog.text


@pytest.mark.parametrize("factor", [8, 0.5, 1])
def test_whose_image_it_is_is_not_guessed(build: SimpleNamespace, factor: float) -> None:
    """Neither the finer nor the equally fine one, wherever the spots lie."""
    sdata = build.slide()
    add_image(sdata, build, "other", factor)
    with pytest.raises(InputValueError) as caught:
        resolve(sdata)
    for part in ("'he' (160 x 120 px", "'other' (80 x 60 px", "image_key={'spots': ...} where"):
        assert part in str(caught.value)
    (frame,) = resolve(sdata, SpatialSetup(image_key={"spots": "other"}))
    assert (frame.image_key, frame.um_per_unit) == ("other", 0.5)


@pytest.mark.parametrize(
    ("pixels", "channels"),
    [(np.zeros((3, 9, 9), np.uint16), ["r", "g", "b"]), (np.zeros((4, 9, 9), np.uint8), range(4))],
)
def test_the_only_readable_image_is_not_the_only_one(
    build: SimpleNamespace, pixels: np.ndarray, channels: list[object]
) -> None:
    """The slide's own picture may be the one that cannot be read, and the other its neighbour's."""
    sdata = build.slide()
    sdata.images["own"] = build.image(pixels, c_coords=channels)
    with pytest.raises(InputValueError, match=rf"'he'.*'own' \(9 x 9 px, {pixels.dtype}\)"):
        resolve(sdata)


def test_pictures_of_one_library_are_one_picture(build: SimpleNamespace) -> None:
    sdata = build.slide()
    sdata.images["S1_full_image"] = sdata.images.pop("he")
    for name, factor in {"S1_hires_image": 4, "S1_lowres_image": 8}.items():
        add_image(sdata, build, name, factor)
    assert resolve(sdata)[0].image_key == "S1_full_image"
    add_image(sdata, build, "S2_full_image", 1)
    with pytest.raises(InputValueError, match="4 images could be"):
        resolve(sdata)


def test_systems_that_disagree_are_not_guessed(build: SimpleNamespace) -> None:
    """Everything is in `global` until somebody aligns it in a system of its own."""
    shifted = build.affine([[1, 0, 30], [0, 1, -4], [0, 0, 1]])
    systems = {"global": Identity(), "aligned": Identity(), "um": build.scale(0.5)}
    image = build.image(build.picture(), systems)
    sdata = build.slide(image=image, systems={"global": Identity(), "aligned": shifted})
    with pytest.raises(
        InputValueError, match=r"'aligned' differ by up to 30 px.*coordinate_system"
    ):
        resolve(sdata)
    (frame,) = resolve(sdata, SpatialSetup(coordinate_system="aligned"))
    np.testing.assert_array_equal(frame.centers[0], [70, 26])


def test_an_image_is_found_in_any_shared_system(build: SimpleNamespace) -> None:
    sdata = build.slide(systems={"global": Identity(), "other": build.scale(10)})
    systems = {"other": build.scale(5), "um": build.scale(0.25)}
    sdata.images["fine"] = build.image(build.picture(240, 320), systems)
    with pytest.raises(InputValueError, match="2 images could be"):
        resolve(sdata)
    (frame,) = resolve(sdata, SpatialSetup(coordinate_system="other"))
    assert (frame.image_key, frame.coordinate_system, frame.um_per_unit) == ("fine", "other", 0.05)
    (frame,) = resolve(sdata, SpatialSetup(coordinate_system="global"))
    assert (frame.image_key, frame.um_per_unit) == ("he", 0.5)


def test_pixel_systems_go_before_micrometres(build: SimpleNamespace) -> None:
    sdata = build.slide(systems={"um": build.scale(0.5), "global": Identity()})
    assert resolve(sdata)[0].coordinate_system == "global"
    (frame,) = resolve(sdata, SpatialSetup(coordinate_system="um"))
    assert frame.um_per_unit == 1
    np.testing.assert_allclose(frame.centers_um, resolve(sdata)[0].centers_um)


def test_no_shared_system(build: SimpleNamespace) -> None:
    sdata = build.slide(systems={"elsewhere": Identity()})
    with pytest.raises(InputValueError) as caught:
        resolve(sdata)
    for part in ("['elsewhere']", "{'he': ['global', 'um']}", "set_transformation"):
        assert part in str(caught.value)
    with pytest.raises(InputKeyError, match=r"no coordinate system 'mars'; it has \['elsewhere'\]"):
        resolve(sdata, SpatialSetup(coordinate_system="mars"))
    with pytest.raises(InputKeyError, match=r"no image 'x'; the images are \['he'\]"):
        resolve(sdata, SpatialSetup(image_key="x"))


def test_only_unfit_images(build: SimpleNamespace) -> None:
    stain = build.image(np.zeros((1, 120, 160), np.uint8), c_coords=["dapi"])
    sdata = build.slide(image=stain)
    with pytest.raises(InputValueError, match=r"'he' has 1 channels \['dapi'\]"):
        resolve(sdata)
    sdata.images["deep"] = build.image(build.picture().astype(np.uint16))
    with pytest.raises(InputTypeError, match="'deep' holds uint16"):
        resolve(sdata, SpatialSetup(image_key="deep"))
    with pytest.raises(InputValueError, match="none of the images is 8-bit RGB: .*dapi.*uint16"):
        resolve(sdata)


@pytest.mark.parametrize("element", ["he", "spots"])
@pytest.mark.parametrize(
    ("matrix", "text"),
    [
        (np.diag([1, 0, 1]), "singular"),
        (np.diag([1, 1.02, 1]), "stretches one axis 1.02 times"),
        ([[1, 0.3, 0], [0, 1, 0], [0, 0, 1]], "stretches"),
    ],
)
def test_distorting_transformations(
    build: SimpleNamespace, element: str, matrix: np.ndarray, text: str
) -> None:
    sdata = build.slide()
    set_transformation(sdata[element], build.affine(matrix), "global")
    with pytest.raises(InputValueError, match=f"(?s){element}.* {text}.*\\[\\["):
        resolve(sdata)
