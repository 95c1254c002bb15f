from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from torch import nn

import rankbygene as rbg
from rankbygene.data._row_groups import RowGroups
from rankbygene.errors import InputValueError
from rankbygene.nn import N_STATISTICS
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
    del record["statistics"]  # as the first models had it
    (tmp_path / "model" / "model.json").write_text(json.dumps(record))
    with pytest.raises(InputValueError, match="statistics=True by a version"):
        rbg.model.load(tmp_path / "model")
