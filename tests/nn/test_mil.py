from __future__ import annotations

from typing import get_args

import pytest
import torch

from rankbygene.errors import InputValueError
from rankbygene.module import SlideModule
from rankbygene.nn import GatedAttention, Pooling, SeedAttention, build_pooling

KINDS = get_args(Pooling)


def bags() -> tuple[torch.Tensor, torch.Tensor]:
    tiles = torch.randn(3, 7, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(7) < torch.tensor([[7], [4], [1]])
    return tiles, mask


@pytest.fixture(params=KINDS)
def pooling(request: pytest.FixtureRequest) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_pooling(request.param, 8).eval()


def test_weights_are_a_distribution_over_the_tiles_of_a_bag(pooling: torch.nn.Module) -> None:
    tiles, mask = bags()
    pooled, weights = pooling(tiles, mask)
    assert pooled.shape == (3, 8)
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    assert (weights >= 0).all()
    assert (weights[~mask] == 0).all()


def test_padding_and_order_do_not_matter(pooling: torch.nn.Module) -> None:
    tiles, mask = bags()
    pooled, weights = pooling(tiles, mask)
    spoiled = tiles.masked_fill(~mask[..., None], 1e3)
    torch.testing.assert_close(pooling(spoiled, mask)[0], pooled)
    for i, n in enumerate((7, 4, 1)):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(i))
        alone, own = pooling(tiles[i : i + 1, order], mask[i : i + 1, :n])
        torch.testing.assert_close(alone[0], pooled[i])
        torch.testing.assert_close(own[0], weights[i, order])


def test_gated_attention_is_its_equation() -> None:
    torch.manual_seed(1)
    tiles, mask = bags()
    attention = GatedAttention(8, 5).eval()
    pooled, weights = attention(tiles, mask)
    h = tiles[1, :4]
    v, u, w = attention.tanh, attention.gate, attention.score
    gated = torch.tanh(h @ v.weight.T + v.bias) * torch.sigmoid(h @ u.weight.T + u.bias)
    a = torch.softmax((gated @ w.weight.T + w.bias)[:, 0], 0)
    torch.testing.assert_close(weights[1, :4], a)
    torch.testing.assert_close(pooled[1], a @ h)


def test_mean_and_max_are_mean_and_max() -> None:
    tiles, mask = bags()
    torch.testing.assert_close(build_pooling("mean", 8)(tiles, mask)[0][1], tiles[1, :4].mean(0))
    torch.testing.assert_close(build_pooling("max", 8)(tiles, mask)[0][1], tiles[1, :4].amax(0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_bag_in_blocks_is_judged_like_a_whole(kind: Pooling) -> None:
    torch.manual_seed(0)
    module = SlideModule(8, 2, pooling=kind, n_hidden=16).eval()
    tiles = bags()[0][0]
    module.set_scale(tiles.mean(0), tiles.std(0))
    whole, weights = module(tiles[None], torch.ones(1, 7, dtype=torch.bool))
    outputs, own = module.judge(module.encode(tiles.split(3)))
    torch.testing.assert_close(outputs, whole[0])
    torch.testing.assert_close(own, weights[0])


def test_unknown_names_and_widths_are_refused() -> None:
    with pytest.raises(InputValueError, match="'attention', 'transformer', 'mean', 'max'"):
        build_pooling("median", 8)  # type: ignore[arg-type]
    with pytest.raises(InputValueError, match="4 heads"):
        SeedAttention(6)
