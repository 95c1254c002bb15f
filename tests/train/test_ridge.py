"""The penalty of a ridge regression is chosen by whole groups, and never by neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeCV

import rankbygene as rbg
from rankbygene.data import Normalization
from rankbygene.data.splits._row_groups import RowGroups, row_groups
from rankbygene.train._ridge import RIDGE_PENALTIES, fit_ridge


def by_hand(x: np.ndarray, y: np.ndarray, folds: object, penalties: np.ndarray) -> np.ndarray:
    """Errors of each penalty, gene by gene and fold by fold, with scikit-learn."""
    x = (x - x.mean(0)) / x.std(0)
    errors = []
    for fit, held in folds:  # type: ignore[attr-defined]
        own = []
        for gene in range(y.shape[1]):
            a, b = (rows[~np.isnan(y[rows, gene])] for rows in (fit, held))
            if len(a) < 2 or not len(b):
                continue
            own.append(
                [
                    np.mean((Ridge(p).fit(x[a], y[a, gene]).predict(x[b]) - y[b, gene]) ** 2)
                    / np.nanvar(y[:, gene])
                    for p in penalties
                ]
            )
        errors.append(np.mean(own, axis=0))
    return np.mean(errors, axis=0)


def test_errors_are_those_of_scikit_learn_on_whole_groups() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 7)) * [1, 2, 3, 4, 5, 6, 7]
    y = x @ rng.normal(size=(7, 4)) + 5 * rng.normal(size=(90, 4))
    y[:30, 1] = np.nan  # on one slide
    y[30:, 2] = np.nan  # on all slides but one: nothing to leave out
    groups = RowGroups.of_labels(np.repeat(["a", "b", "c"], 30), "slide")
    found = fit_ridge(x, y, groups.folds)
    np.testing.assert_allclose(found.errors, by_hand(x, y, groups.folds, RIDGE_PENALTIES))
    assert found.penalty == RIDGE_PENALTIES[np.argmin(found.errors)]
    z = (x - x.mean(0)) / x.std(0)
    for gene, rows in ((0, slice(None)), (1, slice(30, None)), (2, slice(30))):
        expected = Ridge(found.penalty).fit(z[rows], y[rows, gene]).predict(z)
        np.testing.assert_allclose(found(x)[:, gene], expected, atol=1e-8)


def test_neighbours_choose_too_small_a_penalty() -> None:
    """Smooth features and smooth noise: only whole slides tell that nothing is to be learnt."""
    rng = np.random.default_rng(1)
    basis = np.cos(np.pi * np.arange(100)[:, None] / 100 * np.arange(40))
    smooth = lambda n: np.concatenate(
        [basis @ (rng.normal(size=(40, n)) / (1 + np.arange(40))[:, None]) for _ in range(5)]
    )
    x, y = smooth(80), smooth(10)
    groups = RowGroups.of_labels(np.repeat(list("abcde"), 100), "slide")
    train, test = np.arange(400), np.arange(400, 500)
    inner = RowGroups.of_labels(np.repeat(list("abcd"), 100), "slide")
    found = fit_ridge(x[train], y[train], inner.folds)
    z = (x - x[train].mean(0)) / x[train].std(0)
    by_spot = RidgeCV(alphas=np.logspace(-1, 6, 15)).fit(z[train], y[train])
    mean = np.mean((y[test] - y[train].mean(0)) ** 2)
    of_spots = np.mean((by_spot.predict(z[test]) - y[test]) ** 2) / mean
    of_slides = np.mean((found(x[test]) - y[test]) ** 2) / mean
    assert of_spots > 2
    assert of_slides < 1.1
    assert found.penalty > 100 * by_spot.alpha_
    assert len(groups.folds) == 5


def test_a_column_that_hardly_moves_does_not_run_away() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(60, 5))
    y = x[:, :2] + rng.normal(size=(60, 2))
    x = np.c_[x, 1e-7 * rng.normal(size=60), np.full(60, 3.0)]
    groups = RowGroups.of_labels(np.repeat(list("abc"), 20), "slide")
    found = fit_ridge(x, y, groups.folds)
    shifted = x + np.r_[np.zeros(5), 1.0, 1.0]
    assert np.abs(found(shifted) - found(x)).max() < 0.1


def test_components_are_those_of_most_variance() -> None:
    rng = np.random.default_rng(3)
    for n in (30, 90):
        x = rng.normal(size=(n, 60)) @ rng.normal(size=(60, 60))
        y = rng.normal(size=(n, 2))
        groups = RowGroups.of_labels(np.repeat(list("abc"), n // 3), "slide")
        with pytest.warns(UserWarning, match="end of its grid"):
            found = fit_ridge(x, y, groups.folds, n_components=8, penalties=np.array([1.0, 2.0]))
        z = (x - x.mean(0)) / x.std(0)
        _, _, axes = np.linalg.svd(z, full_matrices=False)
        parts = z @ axes[:8].T
        expected = Ridge(found.penalty).fit(parts, y).predict(parts)
        np.testing.assert_allclose(found(x), expected, atol=1e-8)


def test_the_end_of_the_grid_and_too_little_tissue_are_told() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(60, 5)), rng.normal(size=(60, 3))
    groups = RowGroups.of_labels(np.repeat(list("abc"), 20), "slide")
    with pytest.warns(UserWarning, match=r"end of its grid \(100 of 0.1 to 100\).*noise"):
        fit_ridge(x, y, groups.folds, penalties=np.array([0.1, 100.0]))
    with pytest.warns(UserWarning, match=r"end of its grid \(0.1 of 0.1 to 100\).*without error"):
        fit_ridge(x, x[:, :2], groups.folds, penalties=np.array([0.1, 100.0]))
    with pytest.warns(UserWarning, match="number of spots, 60"):
        assert fit_ridge(x, y, ()).penalty == 60
    with pytest.raises(ValueError, match="1 genes that were not measured"):
        fit_ridge(x, np.c_[y, np.full(60, np.nan)], groups.folds)


def test_groups_are_patients_then_slides_then_blocks_with_a_buffer() -> None:
    slides = rbg.datasets.synthetic(4, n_patients=2, n_spots=60, n_genes=10, seed=0)
    rbg.model.RankByGene.setup_spatialdata(slides, patient_key="patient")
    setup = rbg.data.SpatialSetup(patient_key="patient")
    kwargs = {"tile_um": 112.0, "normalization": Normalization()}
    frames = rbg.data.resolve_slides(slides, setup)
    owner = np.repeat([frame.patient for frame in frames.values()], 60)
    groups = row_groups(frames, **kwargs)
    assert groups.by == "patient"
    assert [set(owner[held]) for _, held in groups.folds] == [{"patient_0"}, {"patient_1"}]
    for fit, held in groups.folds:
        assert not set(owner[fit]) & set(owner[held])
    one = {name: frame for name, frame in frames.items() if frame.patient == "patient_0"}
    assert row_groups(one, **kwargs).by == "slide"
    (slide,) = rbg.datasets.synthetic(1, n_spots=300, n_genes=10, seed=0)
    frames = rbg.data.resolve_slides(slide)
    rows = {name: np.arange(10, 300) for name in frames}
    blocks = row_groups(frames, rows, **kwargs)
    centers = next(iter(frames.values())).centers_um[10:]
    assert blocks.by == "block"
    assert sorted(np.concatenate([held for _, held in blocks.folds])) == list(range(290))
    for fit, held in blocks.folds:
        gap = np.abs(centers[fit][:, None] - centers[held]).max(-1).min()
        assert gap > 112
