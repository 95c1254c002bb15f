"""Scores that are kept up batch by batch."""

from __future__ import annotations

import torch

__all__ = ["RunningPearson"]


class RunningPearson:
    """Pearson correlation per gene within each slide, from sums; nothing grows with the spots.

    The mean over slides, then over genes, as :func:`rankbygene.metrics.pearson` has it. Sums are
    float64; a gene that is constant on a slide is left out there.
    """

    def __init__(self) -> None:
        self._sums: dict[int, torch.Tensor] = {}

    def reset(self) -> None:
        """Forget all spots."""
        self._sums = {}

    def update(
        self,
        truth: torch.Tensor,
        predicted: torch.Tensor,
        measured: torch.Tensor,
        slide: torch.Tensor,
    ) -> None:
        """Add a batch: three ``[B, n_genes]`` and the slide of each spot ``[B]``."""
        x, y = truth.cpu().double(), predicted.cpu().double()
        ones = measured.cpu().double()
        slides = slide.cpu()
        for number in sorted(set(slides.tolist())):
            own = slides == number
            n = ones[own]
            a, b = (torch.where(n > 0, values[own], 0.0) for values in (x, y))
            sums = torch.stack(
                [n.sum(0), a.sum(0), b.sum(0), (a * a).sum(0), (b * b).sum(0), (a * b).sum(0)]
            )
            self._sums[number] = self._sums.get(number, 0) + sums

    def compute(self) -> torch.Tensor:
        """Mean over genes; NaN where no gene varies."""
        if not self._sums:
            return torch.tensor(torch.nan)
        per_slide = torch.stack([_pearson(sums) for sums in self._sums.values()])
        return per_slide.nanmean(0).nanmean().float()


def _pearson(sums: torch.Tensor) -> torch.Tensor:
    n, a, b, aa, bb, ab = sums
    n = n.clamp(min=1)
    var_a, var_b = aa / n - (a / n) ** 2, bb / n - (b / n) ** 2
    product = var_a.clamp(min=0) * var_b.clamp(min=0)
    correlation = (ab / n - a * b / n**2) / product.sqrt()
    # Below rounding error a variance is a constant gene, whose correlation is not defined.
    varies = (var_a > 1e-12 * aa / n) & (var_b > 1e-12 * bb / n)
    return torch.where(varies, correlation, torch.nan)
