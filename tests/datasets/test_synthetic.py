from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage, sparse
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import rankbygene as rbg
from rankbygene.data import ExpressionBank, Normalization, TileBank, resolve_slides
from rankbygene.metrics import pearson


def test_slides_are_complete_and_resolve(make_slides: Any) -> None:
    slides = make_slides(3)
    frames = resolve_slides(slides)
    assert list(frames) == ["slide_0_spots", "slide_1_spots", "slide_2_spots"]
    for frame in frames.values():
        table = frame.table
        assert table.shape == (40, 30)
        assert sparse.issparse(table.X)
        np.testing.assert_array_equal(table.X.data, np.rint(table.X.data))
        assert frame.um_per_unit == pytest.approx(1.0)
        assert table.obsm["truth_programs"].shape == (40, 6)
        np.testing.assert_allclose(np.expm1(table.layers["truth"]).sum(1), 1e4, rtol=1e-4)
    patients = [str(sdata["table"].obs["patient"].iloc[0]) for sdata in slides]
    assert patients == ["patient_0", "patient_1", "patient_0"]


@pytest.mark.parametrize("layout", ["hex", "grid"])
@pytest.mark.parametrize("um_per_px", [1.0, 2.0])
def test_scale_and_lattice_are_as_asked(layout: str, um_per_px: float) -> None:
    (sdata,) = rbg.datasets.synthetic(1, 20, 5, layout=layout, um_per_px=um_per_px)
    (frame,) = resolve_slides(sdata).values()
    assert frame.um_per_unit == pytest.approx(um_per_px)
    gaps = np.linalg.norm(frame.centers_um[:, None] - frame.centers_um[None], axis=2)
    assert gaps[gaps > 0].min() == pytest.approx(100, rel=1e-6)
    assert rbg.data.lattice_kind(frame) == {"hex": "hex6", "grid": "grid8"}[layout]


def test_same_seed_same_slides() -> None:
    first, again, other = (
        rbg.datasets.synthetic(1, 15, 6, seed=seed, scale_factors=None)[0] for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(
        np.asarray(first.images["slide_0_image"]), np.asarray(again.images["slide_0_image"])
    )
    assert (first["table"].X != again["table"].X).nnz == 0
    assert (first["table"].X != other["table"].X).nnz > 0
    with pytest.raises(ValueError, match="at least 1"):
        rbg.datasets.synthetic(0)


def texture(tile: np.ndarray) -> list[float]:
    gray = tile.astype(np.float32).mean(0)
    values: list[float] = []
    for sigma in (0.7, 1.5, 3.0, 6.0):
        detail = gray - ndimage.gaussian_filter(gray, sigma)
        values += [detail.std(), (detail**3).mean(), np.abs(np.diff(detail)).mean()]
    return values


def test_texture_tells_the_genes_and_mean_colour_does_not() -> None:
    slides = rbg.datasets.synthetic(4, 120, 40, seed=1, scale_factors=None)
    frames = resolve_slides(slides)
    tiles = TileBank.build(frames, tile_um=112, tile_px=112)[:]
    table = slides[0]["table"]
    bank = ExpressionBank.build(frames, list(table.var_names), Normalization())
    driven = table.var["image_driven"].to_numpy()
    # Slides 1 and 3 are the second patient's.
    test, train = bank.slide_of_row == 3, bank.slide_of_row % 2 == 0
    features = {
        "colour": tiles.reshape(len(tiles), 3, -1).mean(2),
        "texture": np.array([texture(tile) for tile in tiles]),
        "truth": np.concatenate([sdata["table"].obsm["truth_programs"] for sdata in slides]),
    }
    scores = {}
    for name, x in features.items():
        ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 6, 15)))
        predicted = ridge.fit(x[train], bank.values[train]).predict(x[test])
        scores[name] = np.nanmean(pearson(bank.values[test], predicted)[driven])
    assert scores["colour"] < 0.25
    assert scores["texture"] > scores["colour"] + 0.3
    assert scores["truth"] > scores["texture"]
    assert scores["truth"] > 0.85
