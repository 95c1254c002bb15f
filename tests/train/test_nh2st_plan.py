from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from rankbygene.module import Encoded, NH2STModule
from rankbygene.train import NH2ST_RELEASED_PLAN, NH2STPlan

N_GENES = 4
TERMS = ("query", "neighbour", "expression")
# Two patches of four tiles; three spots in each, one neighbour missing.
NEIGHBOURS = torch.tensor([[0, 1, 2], [1, 0, 3], [2, 3, 0], [4, 5, -1], [5, 4, 6], [6, 7, 5]])


def make_module(**settings: Any) -> NH2STModule:
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return NH2STModule(backbone, n_features=6, n_genes=N_GENES, n_latent=8, n_hidden=8, **settings)


def make_batches(n: int = 4) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shape = (8, 3, 16, 16)
    return [
        {
            "image": torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
            "expression": torch.randn(8, N_GENES, generator=generator),
            "measured": torch.ones(8, N_GENES, dtype=torch.bool),
            "slide": torch.arange(8) // 4,
            "spot": torch.arange(8),
            "neighbours": NEIGHBOURS,
            "group": torch.arange(8) // 4,
        }
        for _ in range(n)
    ]


def fit(plan: NH2STPlan) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=1,
    )
    train, validation = (DataLoader(make_batches(n), batch_size=None) for n in (4, 2))  # type: ignore[arg-type]
    trainer.fit(plan, train, validation)
    return trainer


@pytest.mark.parametrize("only", TERMS)
def test_a_term_without_weight_is_not_computed(only: str) -> None:
    weights = {name: float(name == only) for name in TERMS}
    metrics = fit(NH2STPlan(make_module(), weights=weights)).callback_metrics
    logged = {f"{part}_{name}" for part in ("train", "validation") for name in ("loss", only)}
    if only == "expression":
        logged.add("validation_pearson")
    assert set(metrics) == logged


def test_the_loss_is_the_weighted_sum() -> None:
    plan = NH2STPlan(make_module(), weights={"query": 2, "neighbour": 3, "expression": 0.5})
    metrics = fit(plan).callback_metrics
    for part in ("train", "validation"):
        total = sum(plan.weights[name] * float(metrics[f"{part}_{name}"]) for name in TERMS)
        assert float(metrics[f"{part}_loss"]) == pytest.approx(total, rel=1e-5)


def test_only_the_spots_are_scored_not_the_tiles_around_them() -> None:
    plan = NH2STPlan(make_module(decode_from="query"), weights={"query": 0, "neighbour": 0})
    plan.color = False
    (batch,) = make_batches(1)
    before = plan.losses(batch, torch.Generator().manual_seed(0))["expression"]
    batch["expression"][[3, 7]] = 99  # in the margin of their patch
    after = plan.losses(batch, torch.Generator().manual_seed(0))["expression"]
    assert torch.equal(before, after)
    assert plan.n_spots(batch) == 6
    truth, predicted, measured, slide = plan.judge(batch)
    assert truth.shape == predicted.shape == measured.shape == (6, N_GENES)
    assert slide.tolist() == [0, 0, 0, 1, 1, 1]


def test_tiles_of_a_patch_are_turned_and_coloured_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = NH2STPlan(make_module())
    (batch,) = make_batches(1)
    batch["image"][:] = batch["image"][:1].clone()
    seen: list[torch.Tensor] = []
    encode = plan.module.encode

    def spy(images: torch.Tensor) -> Encoded:
        seen.append(images)
        return encode(images)

    monkeypatch.setattr(plan.module, "encode", spy)
    for seed in range(5):
        plan.losses(batch, torch.Generator().manual_seed(seed))
    for view in seen:
        assert torch.equal(view[:4], view[:1].expand(4, -1, -1, -1))
        assert torch.equal(view[4:], view[4:5].expand(4, -1, -1, -1))
    assert any(not torch.equal(view[0], view[4]) for view in seen)


def test_released_settings_train() -> None:
    plan = NH2STPlan(
        make_module(
            contrast_on="post",
            decode_from="query",
            tokens="vector",
            sequential=True,
            share_cross_attention=True,
            standardize=False,
        ),
        **NH2ST_RELEASED_PLAN,
    )
    plan.module.set_expression_stats(torch.full((N_GENES,), 7.0), torch.full((N_GENES,), 2.0))
    assert torch.equal(plan.module.expression_std, torch.ones(N_GENES))
    trainer = fit(plan)
    assert torch.isfinite(trainer.callback_metrics["train_loss"])
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == [5e-4]
