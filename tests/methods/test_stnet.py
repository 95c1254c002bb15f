"""ST-Net: its start, its loss, its invariance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import rankbygene as rbg
from rankbygene.methods.stnet import STNET_RELEASED
from rankbygene.module import STNetModule
from rankbygene.nn import orientations
from rankbygene.train import STNetPlan


def make(n_genes: int = 2) -> Any:
    torch.manual_seed(0)
    backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.AdaptiveAvgPool2d(1))
    return STNetModule(
        torch.nn.Sequential(backbone, torch.nn.Flatten()), n_features=5, n_genes=n_genes
    )


def test_it_starts_at_the_training_mean_of_every_tile() -> None:
    module = make()
    mean = torch.tensor([1.5, 4.0])
    module.set_expression_stats(mean, torch.tensor([0.5, 2.0]))
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    predicted = module.predict_from_features(module.averaged_features(images))
    torch.testing.assert_close(predicted, mean.expand(4, 2))


@pytest.mark.parametrize("standardize", [False, True])
def test_the_loss_is_a_mean_over_spots_and_genes(standardize: bool) -> None:
    module = make()
    module.set_expression_stats(torch.zeros(2), torch.tensor([1.0, 2.0]))
    plan = STNetPlan(module, standardize=standardize)
    for n in (1, 2):  # the released sum would be 5 and 10
        batch = {
            "expression": torch.tensor([[1.0, 3.0]]).expand(n, 2),
            "measured": torch.ones(n, 2, dtype=torch.bool),
        }
        loss = plan.terms(torch.zeros(n, 5), batch)["expression"]
        assert float(loss.detach()) == pytest.approx((1 + 2.25) / 2 if standardize else 5)


def test_orientations_have_one_prediction() -> None:
    module = make()
    torch.nn.init.normal_(module.predictor.weight)
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    expected = module.averaged_features(images)
    for turned in orientations(images):
        torch.testing.assert_close(module.averaged_features(turned), expected)


def test_the_released_training_runs(make_slides: Callable[..., list[Any]]) -> None:
    slides = make_slides()
    rbg.model.STNet.setup_spatialdata(slides)
    model = rbg.model.STNet(
        slides, backbone="test_resnet", pretrained=False, genes=12, tile_px=32, context_um=[224]
    )
    model.train(
        max_epochs=1,
        batch_size=32,
        accelerator="cpu",
        enable_progress_bar=False,
        plan_kwargs=STNET_RELEASED,
    )
    assert model.tile_widths == (112, 224)
    assert all(np.isfinite(table).all(None) for table in model.get_normalized_expression().values())
