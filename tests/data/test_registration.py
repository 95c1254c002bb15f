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


def test_finest_image_is_taken_and_logged(
    build: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    sdata = build.slide()
    add_image(sdata, build, "low", 8)
    add_image(sdata, build, "fine", 0.5)
    sdata.images["stain"] = build.image(
        np.zeros((1, 900, 900), np.uint8), {"global": build.scale(0.1)}, c_coords=["dapi"]
    )
    with caplog.at_level(logging.INFO, logger="rankbygene"):
        (frame,) = resolve(sdata)
    assert frame.image_key == "fine"
    assert frame.um_per_unit == 0.5
    assert "took the finest image 'fine'" in caplog.text
    (frame,) = resolve(sdata, SpatialSetup(image_key="low"))
    assert (frame.image_key, frame.um_per_unit) == ("low", 0.5)


def test_equally_fine_images_are_not_guessed(build: SimpleNamespace) -> None:
    sdata = build.slide()
    add_image(sdata, build, "twin", 1)
    with pytest.raises(InputValueError, match=r"\['he', 'twin'\] are equally fine.*image_key="):
        resolve(sdata)


def test_images_in_different_systems_are_compared_in_region_units(build: SimpleNamespace) -> None:
    sdata = build.slide(systems={"global": Identity(), "other": build.scale(10)})
    systems = {"other": build.scale(5), "um": build.scale(0.25)}
    sdata.images["fine"] = build.image(build.picture(240, 320), systems)
    (frame,) = resolve(sdata)
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
