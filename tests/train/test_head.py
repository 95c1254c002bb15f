from __future__ import annotations

import copy
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from rankbygene.module import RankByGeneModule
from rankbygene.train import fit_head

N_GENES = 3
NONE = torch.arange(0)
TRAIN, VALIDATION = torch.arange(120), torch.arange(120, 160)


def make_data(noise: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(160, 5, generator=generator)
    targets = features @ torch.randn(5, N_GENES, generator=generator)
    targets = targets + noise * torch.randn(160, N_GENES, generator=generator)
    return features, targets, torch.ones(160, N_GENES, dtype=torch.bool)


def fit(
    features: torch.Tensor, targets: torch.Tensor, measured: torch.Tensor, **kwargs: Any
) -> tuple[RankByGeneModule, pd.DataFrame]:
    torch.manual_seed(0)
    module = RankByGeneModule(
        nn.Identity(), n_features=5, n_genes=N_GENES, head="frozen", n_hidden=32
    )
    _, clean, _ = make_data()
    module.set_expression_stats(clean[TRAIN].mean(0), clean[TRAIN].std(0))
    settings: dict[str, Any] = {"train": TRAIN, "validation": VALIDATION, "lr": 3e-3} | kwargs
    return module, fit_head(module, features, targets, measured, **settings)


def test_it_beats_the_mean_on_linear_data() -> None:
    features, targets, measured = make_data()
    module, history = fit(features, targets, measured)
    with torch.no_grad():
        predicted = module.predict_from_features(features)[VALIDATION]
    mean = targets[TRAIN].mean(0).expand_as(predicted)
    assert F.mse_loss(predicted, targets[VALIDATION]) < 0.2 * F.mse_loss(mean, targets[VALIDATION])
    assert list(history) == ["train_loss", "validation_loss"]
    assert history.index.name == "epoch"
    predictor = module.teacher.predictor
    assert not predictor.training
    assert not any(p.requires_grad for p in predictor.parameters())


def test_validation_keeps_the_best_epoch_and_stops() -> None:
    features, targets, measured = make_data(noise=3.0)
    module, history = fit(features, targets, measured, lr=3e-2, patience=4)
    best = int(history["validation_loss"].argmin())
    assert len(history) == best + 5 < 100
    with torch.no_grad():
        predicted = module.teacher.predictor(features[VALIDATION])
    loss = float(F.mse_loss(predicted, module.standardize(targets[VALIDATION])))
    assert abs(loss - history["validation_loss"].min()) < 1e-5


def test_without_validation_every_epoch_is_run() -> None:
    _, history = fit(*make_data(), validation=NONE, max_epochs=7, patience=1)
    assert list(history) == ["train_loss"]
    assert len(history) == 7


def test_the_seed_decides() -> None:
    states, histories = [], []
    for seed in (1, 1, 2):
        module, history = fit(*make_data(), seed=seed, max_epochs=3)
        states.append(copy.deepcopy(module.state_dict()))
        histories.append(history)
    pd.testing.assert_frame_equal(histories[0], histories[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not histories[0].equals(histories[2])


def test_unmeasured_entries_and_other_rows_are_ignored() -> None:
    features, targets, measured = make_data()
    measured = torch.rand(measured.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    rows = {"train": TRAIN[:100], "max_epochs": 3}
    broken_targets = torch.where(measured, targets, 1e4)
    broken_features = features.clone()
    broken_features[100:120], broken_targets[100:120] = 1e4, 1e4
    first, first_history = fit(features, targets, measured, **rows)
    second, second_history = fit(broken_features, broken_targets, measured, **rows)
    pd.testing.assert_frame_equal(first_history, second_history)
    ours, theirs = first.state_dict(), second.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
