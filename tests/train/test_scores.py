from __future__ import annotations

import numpy as np
import pytest
import torch

from rankbygene.metrics import pearson
from rankbygene.train._scores import RunningPearson


def running(
    truth: torch.Tensor,
    predicted: torch.Tensor,
    measured: torch.Tensor,
    slide: torch.Tensor,
    size: int = 7,
) -> float:
    scores = RunningPearson()
    for rows in torch.arange(len(truth)).split(size):
        scores.update(truth[rows], predicted[rows], measured[rows], slide[rows])
    return float(scores.compute())


def direct(
    truth: torch.Tensor, predicted: torch.Tensor, measured: torch.Tensor, slide: torch.Tensor
) -> float:
    known = torch.where(measured, truth, torch.nan)
    return float(np.nanmean(pearson(known.numpy(), predicted.numpy(), groups=slide.numpy())))


@pytest.mark.parametrize("size", [1, 13, 90])
@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1e-4, 0.0), (1.0, 1e3)])
def test_any_split_equals_the_metric(size: int, scale: float, offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    truth, noise = torch.randn(2, 90, 5, generator=generator)
    predicted = (truth + noise) * scale + offset
    truth = truth * scale + offset
    measured = torch.rand(90, 5, generator=generator) < 0.8
    slide = torch.arange(90) % 3
    measured[:, 1] &= slide != 2  # one gene is missing on a whole slide
    measured[:, 2] = False  # and one everywhere
    result = running(truth, predicted, measured, slide, size)
    assert result == pytest.approx(direct(truth, predicted, measured, slide), abs=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 7.3, 123.4, 1e4])
def test_a_constant_gene_has_no_correlation(value: float) -> None:
    varying = torch.randn(60, 1, generator=torch.Generator().manual_seed(0))
    constant = torch.full((60, 1), value)
    everywhere, slide = torch.ones(60, 1, dtype=torch.bool), torch.zeros(60)
    assert np.isnan(running(constant, varying, everywhere, slide))
    assert np.isnan(running(varying, constant, everywhere, slide))
