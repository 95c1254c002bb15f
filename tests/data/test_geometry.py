from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spatialdata import SpatialData
from spatialdata.transformations import Identity

from rankbygene.data import SpatialSetup, SpotFrame, frame_from_shapes, plan_tiles, resolve
from rankbygene.data.slides._affine import apply_affine, similarity_scale
from rankbygene.errors import InputValueError


def only(sdata: SpatialData, **setup: Any) -> SpotFrame:
    (frame,) = resolve(sdata, SpatialSetup(**setup))
    return frame


@given(
    factor=st.floats(1e-3, 1e3),
    angle=st.floats(-4, 4),
    shift=st.floats(-1e4, 1e4),
    mirror=st.sampled_from([1, -1]),
)
def test_scale_of_a_similarity(factor: float, angle: float, shift: float, mirror: int) -> None:
    c, s = factor * np.cos(angle), factor * np.sin(angle)
    matrix = np.array([[c, -s * mirror, shift], [s, c * mirror, -shift], [0, 0, 1]])
    assert similarity_scale(matrix) == pytest.approx(factor)
    points = np.random.default_rng(0).normal(size=(5, 2))
    back = apply_affine(np.linalg.inv(matrix), apply_affine(matrix, points))
    np.testing.assert_allclose(back, points, atol=1e-6)


@pytest.mark.parametrize(
    "matrix", [np.zeros((3, 3)), np.diag([1, 1.011, 1]), np.full((3, 3), np.nan), np.ones((3, 3))]
)
def test_other_maps_have_no_scale(matrix: np.ndarray) -> None:
    with pytest.raises(InputValueError, match="transformation"):
        similarity_scale(matrix)


def test_slight_stretch_is_allowed() -> None:
    assert similarity_scale(np.diag([2.0164, 2.02, 1])) == pytest.approx(2.018, rel=1e-3)


def test_plan_on_an_identity_image(build: SimpleNamespace) -> None:
    plan = plan_tiles(only(build.slide()), tile_um=16, tile_px=32)
    assert (plan.image_key, plan.level, plan.side) == ("he", 0, 32)
    assert (plan.um_per_px, plan.shape) == (0.5, (120, 160))
    assert plan.x0.tolist() == [24, 64, 24, 65]
    assert plan.y0.tolist() == [14, 14, 44, 46]  # 62.5 - 16 rounds to the even 46
    odd = plan_tiles(only(build.slide()), tile_um=15.5, tile_px=31)
    assert odd.side == 31
    assert odd.x0.tolist() == [24, 64, 24, 66]  # 40 - 15.5 rounds to the even 24
    assert odd.y0.tolist() == [14, 14, 44, 47]


def test_coarsest_level_that_resolves_the_tile(build: SimpleNamespace) -> None:
    systems = {"global": Identity(), "um": build.scale(0.25)}
    image = build.image(build.picture(160, 200), systems, scale_factors=[2, 2])
    frame = only(build.slide(image=image))
    found = [plan_tiles(frame, tile_um=um, tile_px=16) for um in (8, 15.8, 16, 30)]
    assert [(plan.level, plan.side) for plan in found] == [(1, 16), (2, 16), (2, 16), (2, 30)]
    assert found[0].x0.tolist() == [12, 32, 12, 32]  # 81 / 2 - 8 rounds to the even 32
    assert found[3].um_per_px == pytest.approx(1)
    assert plan_tiles(frame, tile_um=7, tile_px=16).level == 0


def test_levels_of_odd_sizes_have_their_own_scale(build: SimpleNamespace) -> None:
    image = build.image(build.picture(101, 123), scale_factors=[2])
    frame = only(build.slide([[120.0, 98.0]], image=image))
    plan = plan_tiles(frame, tile_um=16, tile_px=16)
    assert (plan.level, plan.shape) == (1, (50, 61))
    assert plan.um_per_px == pytest.approx(0.5 * np.sqrt(123 / 61 * 101 / 50))
    assert plan.x0.tolist() == [round(120 * 61 / 123 - 8)]
    assert plan.y0.tolist() == [round(98 * 50 / 101 - 8)]


def test_unevenly_halved_levels_are_skipped(build: SimpleNamespace) -> None:
    image = build.image(build.picture(101, 123), scale_factors=[2, 2, 2])
    plan = plan_tiles(only(build.slide(image=image)), tile_um=32, tile_px=4)
    assert plan.level < 3


@pytest.mark.parametrize("quarter_turns", [0, 1, 2, 3])
@pytest.mark.parametrize("mirror", [False, True])
def test_rotations_and_flips_move_the_centres(
    build: SimpleNamespace, quarter_turns: int, mirror: bool
) -> None:
    """A spot stays on its pixel, however the image lies in the common system."""
    turn = np.linalg.matrix_power(np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]), quarter_turns)
    matrix = np.array([[3, 0, 700], [0, 3, -50], [0, 0, 1]]) @ turn
    matrix = matrix @ np.diag([-1 if mirror else 1, 1, 1])
    systems = {"global": build.affine(matrix), "um": build.scale(0.5)}
    image = build.image(build.picture(), systems)
    pixels = np.array([[40, 30], [80, 30], [40, 60], [81, 63.0]])
    frame = only(build.slide(apply_affine(matrix, pixels), image=image))
    plan = plan_tiles(frame, tile_um=16, tile_px=32)
    assert plan.side == 32
    np.testing.assert_array_equal(np.stack([plan.x0, plan.y0], axis=1), pixels - 16)


def test_shapes_in_micrometres(build: SimpleNamespace) -> None:
    """Shapes in micrometres on an image of 0.2125 um per px: 20 um are 94 px, not 20."""
    per_px = 0.2125
    image = build.image(build.picture(400, 400), {"global": Identity()})
    systems = {"global": build.scale(1 / per_px)}
    sdata = build.slide(np.array([[40.0, 30.0]]), image=image, systems=systems)
    plan = plan_tiles(only(sdata, um_per_px=per_px), tile_um=20, tile_px=94)
    assert plan.side == 94
    assert plan.x0.tolist() == [round(40 / per_px - 47)]
    assert plan.y0.tolist() == [round(30 / per_px - 47)]


def test_too_few_pixels(build: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    frame = only(build.slide())
    with pytest.raises(InputValueError, match="covers 32 px of 'he'.*full-resolution image"):
        plan_tiles(frame, tile_um=16, tile_px=65)
    assert plan_tiles(frame, tile_um=16, tile_px=64).side == 32
    assert "enlarged to 64 px" in caplog.text


@pytest.mark.parametrize(("tile_um", "tile_px"), [(0, 32), (16, 0), (-1, 32), (np.nan, 32)])
def test_widths_are_positive(build: SimpleNamespace, tile_um: float, tile_px: int) -> None:
    with pytest.raises(
        InputValueError, match=r"tile_(um|px) is .*; a .*number (above 0|of at least 1)"
    ):
        plan_tiles(only(build.slide()), tile_um=tile_um, tile_px=tile_px)


def test_centres_outside_the_image(build: SimpleNamespace) -> None:
    sdata = build.slide([[0, 0], [160, 120], [-1, 5], [5, 121.0]], ids=["a", "b", "c", "d"])
    with pytest.raises(InputValueError) as caught:
        plan_tiles(frame_from_shapes(sdata, "spots"), tile_um=16, tile_px=32)
    text = str(caught.value)
    assert "2 of 4 spots have their centre outside 'he' (160 x 120 px; first: c, d)" in text
    assert "check the coordinate system" in text
