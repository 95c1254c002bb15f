from __future__ import annotations

import copy
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from rankbygene.errors import InputValueError
from rankbygene.module import NH2STModule, RankByGeneModule, SimCLRModule
from rankbygene.train import NH2STPlan, RankByGenePlan, SimCLRPlan

N_GENES = 4
N = 12
NEIGHBOURS = torch.tensor([[0, 1, 2], [1, 0, 3], [2, 3, 0], [4, 5, -1], [5, 4, 6], [6, 7, 5]])


def make_encoder(norm: nn.Module, dropout: float = 0.0) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2),
        norm,
        nn.GELU(),
        nn.Dropout(dropout),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def make_plan(
    kind: str, norm: nn.Module | None = None, dropout: float = 0.0, **settings: Any
) -> Any:
    torch.manual_seed(0)
    encoder = make_encoder(norm or nn.GroupNorm(2, 6), dropout)
    if kind == "simclr":
        return SimCLRPlan(SimCLRModule(encoder, n_features=6), **settings)
    if kind == "nh2st":
        module = NH2STModule(encoder, n_features=6, n_genes=N_GENES, n_latent=8, n_hidden=8)
        return NH2STPlan(module, **settings)
    widths = 2 if kind == "two widths" else 1
    module = RankByGeneModule(encoder, n_features=6, n_genes=N_GENES, n_widths=widths)
    return RankByGenePlan(module, **settings)


def make_batch(kind: str, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (N, 6 if kind == "two widths" else 3, 16, 16)
    return {
        "image": torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
        "expression": torch.randn(N, N_GENES, generator=generator),
        "measured": torch.ones(N, N_GENES, dtype=torch.bool),
        "slide": torch.arange(N) // 4,
        "spot": torch.arange(N),
        **({"neighbours": NEIGHBOURS, "group": torch.arange(N) // 4} if kind == "nh2st" else {}),
    }


def gradients(plan: Any, kind: str) -> tuple[float, dict[str, torch.Tensor]]:
    plan.log = plan.log_dict = lambda *args, **kwargs: None
    loss = plan.training_step(make_batch(kind), 0)["loss"]
    loss.backward()
    found = {n: p.grad for n, p in plan.module.named_parameters() if p.grad is not None}
    return float(loss.detach()), found


@pytest.mark.parametrize("kind", ["rankbygene", "two widths", "nh2st", "simclr"])
@pytest.mark.parametrize("chunk_size", [1, 5, N])
def test_chunks_give_the_loss_and_the_gradients_of_the_batch(kind: str, chunk_size: int) -> None:
    plan, chunked = make_plan(kind), make_plan(kind, chunk_size=chunk_size)
    seen: list[int] = []
    encoder = chunked.module.backbone if kind == "nh2st" else None
    if encoder is not None:
        encoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    loss, expected = gradients(plan, kind)
    other, found = gradients(chunked, kind)
    assert other == pytest.approx(loss, abs=1e-6)
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        assert torch.dist(found[name], gradient) <= 3e-6 * gradient.norm(), name
    assert torch.equal(plan.generator.get_state(), chunked.generator.get_state())
    if seen and chunk_size < N:
        # Two passes over every tile, never more than a chunk at once.
        assert max(seen) <= chunk_size
        assert sum(seen) == 2 * N


def test_the_second_pass_drops_what_the_first_dropped() -> None:
    plan = make_plan("rankbygene", dropout=0.5, chunk_size=4)
    weight = plan.module.student.backbone[0].weight
    torch.manual_seed(5)
    _, found = gradients(plan, "rankbygene")
    # The derivative along a direction, by differences: wrong if the masks differed.
    direction, step = found["student.backbone.0.weight"], 1e-3
    losses = []
    for sign in (-1, 1):
        shifted = make_plan("rankbygene", dropout=0.5, chunk_size=4)
        with torch.no_grad():
            shifted.module.student.backbone[0].weight.copy_(weight + sign * step * direction)
        torch.manual_seed(5)
        losses.append(gradients(shifted, "rankbygene")[0])
    slope = (losses[1] - losses[0]) / (2 * step)
    assert slope == pytest.approx(float((direction**2).sum()), rel=0.02)


def test_batch_normalisation_counts_a_tile_once() -> None:
    plan = make_plan("rankbygene", norm=nn.BatchNorm2d(6), chunk_size=5)
    layer = plan.module.student.backbone[1]
    inputs: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    gradients(plan, "rankbygene")
    hook.remove()
    expected = nn.BatchNorm2d(6)
    for chunk in inputs[:3]:
        expected(chunk)
    assert len(inputs) == 6
    assert layer.momentum == 0.1
    for name, buffer in expected.named_buffers():
        assert torch.equal(layer.get_buffer(name), buffer), name


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1},
        {"precision": "bf16-mixed"},
    ],
)
def test_a_fit_in_chunks_is_the_fit(settings: dict[str, Any]) -> None:
    states = []
    for chunk_size in (None, 5):
        plan = make_plan("rankbygene", chunk_size=chunk_size)
        start = copy.deepcopy(plan.module.state_dict())
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=2,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **settings,
        )
        batches = [make_batch("rankbygene", seed) for seed in range(3)]
        trainer.fit(plan, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
        states.append(plan.module.state_dict())
        assert not torch.equal(
            states[-1]["student.backbone.0.weight"], start["student.backbone.0.weight"]
        )
    atol = 1e-3 if "precision" in settings else 1e-5
    for name, tensor in states[0].items():
        assert torch.allclose(states[1][name], tensor, rtol=0, atol=atol), name


def test_a_chunk_holds_at_least_one_tile() -> None:
    with pytest.raises(InputValueError, match="chunk_size is 0"):
        make_plan("rankbygene", chunk_size=0)
