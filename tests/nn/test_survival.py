from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankbygene.errors import InputValueError
from rankbygene.nn._survival import breslow_hazard
from rankbygene.nn.losses import cox_loss, discrete_time_loss

Data = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def draw(n: int, seed: int, *, n_times: int = 6) -> Data:
    rng = np.random.default_rng(seed)
    return (
        torch.from_numpy(rng.normal(0, 2, n)),
        torch.from_numpy(rng.integers(1, n_times + 1, n).astype(float)),
        torch.from_numpy(rng.uniform(size=n) < 0.6),
    )


def slow_cox(hazard: torch.Tensor, time: torch.Tensor, event: torch.Tensor, ties: str) -> float:
    total = 0.0
    for t in time[event].unique():
        tied = event & (time == t)
        at_risk = hazard[time >= t].exp().sum()
        for rank in range(int(tied.sum())):
            out = rank / int(tied.sum()) * hazard[tied].exp().sum() if ties == "efron" else 0.0
            total += float((at_risk - out).log())
        total -= float(hazard[tied].sum())
    return total / int(event.sum())


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.integers(0, 10**6), st.sampled_from(["efron", "breslow"]))
def test_cox_loss_is_the_slow_loop_and_blind_to_order_and_level(
    n: int, seed: int, ties: Literal["efron", "breslow"]
) -> None:
    hazard, time, event = draw(n, seed)
    loss = float(cox_loss(hazard, time, event, ties=ties))
    if not event.any():
        assert loss == 0
        return
    assert loss == pytest.approx(slow_cox(hazard, time, event, ties), rel=1e-9, abs=1e-9)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    again = cox_loss(hazard[order] + 300, time[order], event[order], ties=ties)
    assert float(again) == pytest.approx(loss, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_cox_loss_is_torchsurv(ties: Literal["efron", "breslow"]) -> None:
    torchsurv = pytest.importorskip("torchsurv.loss.cox")
    hazard, time, event = draw(40, 1)
    with pytest.warns(UserWarning, match="Ties"):
        theirs = torchsurv.neg_partial_log_likelihood(
            hazard.float(), event, time.float(), ties_method=ties, reduction="sum"
        )
    loss = cox_loss(hazard, time, event, ties=ties) * event.sum()
    assert float(loss) == pytest.approx(float(theirs), rel=1e-5)


def test_the_minimum_of_cox_loss_is_the_fit_of_lifelines() -> None:
    lifelines = pytest.importorskip("lifelines")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 2))
    time = np.ceil(4 * rng.exponential(np.exp(-x @ [1.0, -0.5])))
    event = rng.uniform(size=120) < 0.7
    table = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "time": time, "event": event})
    fitted = lifelines.CoxPHFitter().fit(table, "time", "event")
    beta = torch.tensor(fitted.params_.to_numpy(), requires_grad=True)
    loss = cox_loss(torch.from_numpy(x) @ beta, torch.from_numpy(time), torch.from_numpy(event))
    assert loss.item() * event.sum() == pytest.approx(-fitted.log_likelihood_, rel=1e-6)
    assert torch.autograd.grad(loss, beta)[0].abs().max() < 1e-5


def test_baseline_hazard_is_that_of_lifelines() -> None:
    lifelines = pytest.importorskip("lifelines")
    _, time, event = draw(60, 4, n_times=30)
    times, hazard = breslow_hazard(torch.zeros(60), time, event)
    theirs = lifelines.NelsonAalenFitter(nelson_aalen_smoothing=False).fit(
        time.numpy(), event.numpy()
    )
    expected = theirs.cumulative_hazard_.iloc[:, 0].reindex(times.numpy()).to_numpy()
    np.testing.assert_allclose(hazard.numpy(), expected, rtol=1e-6)


def test_cox_loss_stands_extreme_risks_and_batches_without_events() -> None:
    hazard = torch.tensor([800.0, -800.0, 0.0], requires_grad=True)
    time = torch.tensor([1.0, 2.0, 2.0])
    for event in ([1, 1, 1], [0, 0, 0]):
        loss = cox_loss(hazard, time, torch.tensor(event))
        assert torch.isfinite(loss)
        assert torch.isfinite(torch.autograd.grad(loss, hazard)[0]).all()


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_discrete_time_loss_is_the_slow_loop(alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    interval = torch.randint(4, (20,), generator=generator)
    event = torch.rand(20, generator=generator) < 0.5
    total = 0.0
    for row, k, seen in zip(logits.sigmoid(), interval.tolist(), event.tolist(), strict=True):
        survival = torch.cumprod(1 - row, 0)
        before = survival[k - 1] if k else torch.tensor(1.0)
        total += float(-(before * row[k]).log() if seen else -(1 - alpha) * survival[k].log())
    loss = discrete_time_loss(logits, interval, event, alpha=alpha)
    assert float(loss) == pytest.approx(total / 20, rel=1e-6)


def test_discrete_time_probabilities_sum_to_one() -> None:
    logits = torch.randn(1, 5, generator=torch.Generator().manual_seed(1)).repeat(5, 1)
    died = [float((-discrete_time_loss(logits[:1], torch.tensor([k]), torch.tensor([1]))).exp())
            for k in range(5)]  # fmt: skip
    survived = float((-discrete_time_loss(logits[:1], torch.tensor([4]), torch.tensor([0]))).exp())
    assert sum(died) + survived == pytest.approx(1, rel=1e-5)


def test_wrong_shapes_and_names_are_refused() -> None:
    hazard, time, event = draw(5, 0)
    with pytest.raises(InputValueError, match="one value per row"):
        cox_loss(hazard[:, None], time, event)
    with pytest.raises(InputValueError, match="'efron', 'breslow'"):
        cox_loss(hazard, time, event, ties="exact")  # type: ignore[arg-type]
    with pytest.raises(InputValueError, match="there are 3"):
        discrete_time_loss(torch.zeros(2, 3), torch.tensor([0, 3]), torch.tensor([1, 1]))
