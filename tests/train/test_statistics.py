from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from torch import nn

import rankbygene as rbg
from rankbygene.data.splits._row_groups import RowGroups
from rankbygene.nn import N_STATISTICS
from rankbygene.nn._first_statistics import first_color_texture_statistics
from rankbygene.train import fit_statistics
from rankbygene.train._ridge import fit_ridge


def test_the_layer_is_the_ridge_on_standardised_statistics() -> None:
    rng = np.random.default_rng(0)
    statistics = 5 + 3 * rng.normal(size=(80, N_STATISTICS))
    statistics[:, 3] = 7.0
    expression = (statistics @ rng.normal(size=(N_STATISTICS, 4))).astype(np.float32)
    unmeasured = expression.copy()
    unmeasured[:20, 2] = np.nan
    groups = RowGroups.of_labels(np.repeat(["a", "b", "c", "d"], 20), "slide")
    layer = nn.Linear(N_STATISTICS, 4)
    fit_statistics(layer, statistics, unmeasured, groups.folds)
    penalty = fit_ridge(statistics, unmeasured, groups.folds).penalty
    scaled = StandardScaler().fit_transform(statistics)
    expected = Ridge(penalty).fit(scaled, expression).predict(scaled)
    # A gene that a slide lacks is fitted on the others alone.
    expected[:, 2] = Ridge(penalty).fit(scaled[20:], expression[20:, 2]).predict(scaled)
    with torch.no_grad():
        found = layer(torch.from_numpy(statistics).float()).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2)


def test_the_prediction_is_the_mean_of_network_and_statistics(
    slides: list[Any], make_slides: Any, fit_tiny: Any, tmp_path: Path
) -> None:
    (new,) = make_slides(1, seed=31)
    kwargs = {"tile_px": 32, "statistics": False}
    plain = fit_tiny(slides, model_kwargs=kwargs, key_added="plain")
    both = fit_tiny(slides, model_kwargs=kwargs | {"statistics": True}, key_added="both")
    np.testing.assert_array_equal(
        plain.get_latent_representation(new), both.get_latent_representation(new)
    )
    tiles = torch.from_numpy(
        rbg.data.TileBank.build(
            both._frames_of(new, counts=False), tile_um=both.tile_um, tile_px=32
        )[np.arange(40)]
    )
    with torch.no_grad():
        linear = both.module.statistics(rbg.nn.color_texture_statistics(tiles)).numpy()
    network, mixed = (m.get_normalized_expression(new).to_numpy() for m in (plain, both))
    np.testing.assert_allclose(mixed, (network + linear) / 2, atol=1e-4)
    both.save(tmp_path / "model")
    again = rbg.model.RankByGene.load(tmp_path / "model").get_normalized_expression(new)
    np.testing.assert_array_equal(again.to_numpy(), mixed)
    record = json.loads((tmp_path / "model" / "model.json").read_text())
    assert record["statistics"] == 2


def test_the_first_models_predict_by_the_statistics_that_they_were_fitted_on(
    slides: list[Any], fit_tiny: Any, tmp_path: Path
) -> None:
    model = fit_tiny(slides, model_kwargs={"tile_px": 32, "statistics": True}, key_added="first")
    model.module.statistics_version = 1
    before = model.get_normalized_expression(slides[0])
    model.save(tmp_path / "model")
    # As the first version wrote it: no word of statistics, one checksum.
    record = json.loads((tmp_path / "model" / "model.json").read_text())
    del record["statistics"], record["checksum"]
    record |= {"format": 1, "sha256": record["sha256"]["model.safetensors"]}
    (tmp_path / "model" / "model.json").write_text(json.dumps(record))
    loaded = rbg.model.load(tmp_path / "model")
    pd.testing.assert_frame_equal(loaded.get_normalized_expression(slides[0]), before)
    loaded.save(tmp_path / "again")
    again = rbg.model.load(tmp_path / "again")
    pd.testing.assert_frame_equal(again.get_normalized_expression(slides[0]), before)


def test_the_first_statistics_are_what_they_were() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1, 3, 9, 7), generator=generator, dtype=torch.uint8)
    found = first_color_texture_statistics(images)[0]
    # Written down from version 0.1.0; the last two spreads are of a single gradient.
    first = [0.52586, 0.29445, 0.12235, 0.57647, 0.93961, 0.461, 0.26241, 0.12392]
    last = [0.06805, 0.04981, 0.03692, 0.06758, 0.01261, np.nan, np.nan, 0.00891, 0.00891]
    np.testing.assert_allclose(found[:8], first, atol=1e-5)
    np.testing.assert_allclose(found[24:34], [
        0.17109, 0.31929, 0.16286, 0.13866, 0.30546, 0.08575, 0.1199, 0.05708, 0.06576, 0.13338,
    ], atol=1e-5)  # fmt: skip
    np.testing.assert_allclose(found[-9:], last, atol=1e-5)
