from __future__ import annotations

import pytest
import torch

from rankbygene.nn import CrossAttention


def make() -> CrossAttention:
    torch.manual_seed(0)
    return CrossAttention(16, n_heads=4, depth=2).eval()


def test_over_one_key_attention_has_nothing_to_choose() -> None:
    attention = make()
    query, other, keys = torch.randn(3, 5, 16)
    block = attention.blocks[0]
    added = [block.attend(q[:, None], keys[:, None], None) for q in (query, other)]
    assert torch.allclose(*added, atol=1e-6)
    several = torch.randn(5, 7, 16)
    added = [block.attend(q[:, None], several, None) for q in (query, other)]
    assert not torch.allclose(*added, atol=1e-3)
    attention(query, keys).sum().backward()
    gradient = block.to_query.weight.grad
    assert gradient is not None
    assert float(gradient.abs().max()) < 1e-6


def test_masked_keys_are_not_looked_at() -> None:
    attention = make()
    query, keys = torch.randn(5, 16), torch.randn(5, 7, 16)
    present = torch.arange(7).expand(5, 7) < torch.arange(1, 6)[:, None]
    masked = attention(query, keys, present)
    for row in range(5):
        expected = attention(query[row : row + 1], keys[row : row + 1, : row + 1])
        assert torch.allclose(masked[row], expected[0], atol=1e-6)


def test_tokens_and_vectors_are_the_same_query() -> None:
    attention = make()
    query, keys = torch.randn(5, 16), torch.randn(5, 7, 16)
    assert torch.allclose(attention(query, keys), attention(query[:, None], keys)[:, 0], atol=1e-6)
    with pytest.raises(ValueError, match="multiple of the 3 attention heads"):
        CrossAttention(16, n_heads=3)
