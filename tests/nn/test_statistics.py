from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankbygene.nn import (
    N_STATISTICS,
    color_statistics,
    color_texture_statistics,
    orientations,
)


def tiles(seed: int, px: int, levels: int, n: int = 3) -> torch.Tensor:
    """Tiles with coarse and fine structure, of few or many different values."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, levels, (n, 3, px, 1)) + rng.integers(0, levels, (n, 3, 1, px)) // 2
    fine = rng.integers(0, levels, (n, 3, px, px))
    return torch.from_numpy(np.clip(coarse + fine, 0, 255).astype(np.uint8))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 999), st.integers(1, 41), st.sampled_from([1, 2, 7, 60, 256]), st.booleans())
def test_no_orientation_has_other_statistics(
    seed: int, px: int, levels: int, floating: bool
) -> None:
    images = tiles(seed, px, levels)
    images = images.float() / 255 if floating else images
    expected = color_texture_statistics(images)
    assert expected.shape == (3, N_STATISTICS)
    assert expected.dtype == torch.float32
    assert bool(expected.isfinite().all())
    same = partial(torch.testing.assert_close, rtol=1e-6, atol=1e-12)  # one rounding to float32
    for turned in orientations(images):
        same(color_texture_statistics(turned), expected)
        same(color_statistics(turned), expected[:, :15])


@pytest.mark.parametrize("px", [1, 2, 5, 16, 33])
def test_statistics_against_loops(px: int) -> None:
    (image,) = tiles(1, px, 200, n=1)
    found = color_texture_statistics(image[None])[0, 24:].view(4, 5).numpy()
    luma = np.tensordot([0.299, 0.587, 0.114], image.numpy() / 255, 1)
    for row in found:
        side = len(luma)
        cells = [
            np.sqrt((np.diff(c, axis=0) ** 2).sum() / 2 + (np.diff(c, axis=1) ** 2).sum() / 2)
            for i in range(side - 1)
            for j in range(side - 1)
            for c in [luma[i : i + 2, j : j + 2]]
        ] or [0.0]
        edges = [
            abs(luma[i, j] - luma[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].mean())
            for i in range(side)
            for j in range(side)
        ]
        spread = [np.std(v, ddof=1) if np.size(v) > 1 else 0 for v in (luma, cells)]
        expected = [spread[0], np.mean(cells), spread[1], np.mean(edges), np.quantile(edges, 0.95)]
        np.testing.assert_allclose(row, expected, atol=2e-6)
        half = -(-side // 2)
        ends = [(i * side // half, -(-(i + 1) * side // half)) for i in range(half)]
        luma = np.array([[luma[a:b, c:d].mean() for c, d in ends] for a, b in ends])


@pytest.mark.parametrize("value", [0, 1, 128, 255])
def test_a_constant_tile_has_no_spread(value: int) -> None:
    found = color_texture_statistics(torch.full((1, 3, 20, 20), value, dtype=torch.uint8))[0]
    color = found[:15].view(3, 5)
    torch.testing.assert_close(color[:, [0, 2, 3, 4]], torch.full((3, 4), value / 255))
    torch.testing.assert_close(color[:, 1], torch.zeros(3), rtol=0, atol=1e-7)
    torch.testing.assert_close(found[24:], torch.zeros(20), rtol=0, atol=1e-5)
