"""The order of spots by image against their order by genes."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError
from rankbygene.nn.losses._shared import check_choice, check_same_shape

__all__ = ["RankingReduction", "RankingVariant", "ranking_consistency"]

RankingVariant = Literal["paper", "released"]
RankingReduction = Literal["mean", "sum_over_n"]


@checked
def ranking_consistency(
    image_similarity: torch.Tensor,
    gene_similarity: torch.Tensor,
    n_shifts: int | None = 1,
    variant: RankingVariant = "paper",
    generator: torch.Generator | None = None,
    reduction: RankingReduction | None = None,
) -> torch.Tensor:
    r"""Penalise pairs whose order by image contradicts, or is fainter than, their order by genes.

    For an anchor ``p`` and two other spots ``q``, ``r`` with gaps
    :math:`\Delta^G = S^G_{pq} - S^G_{pr}` and :math:`\Delta^I = S^I_{pq} - S^I_{pr}`:

    .. math::
        \ell(p,q,r) = \max(0, |\Delta^G| - \mathrm{sign}(\Delta^G)\,\Delta^I)

    averaged over triplets of three different spots. It is 0 exactly where the image gap has the
    sign of the gene gap and is at least as large.

    Parameters
    ----------
    image_similarity, gene_similarity
        ``[N, N]``, rows are anchors. Detach the gene side to let genes lead.
    n_shifts
        Number of triplets per anchor and spot: one random order of the spots is compared with
        itself shifted by 1, ..., ``n_shifts``. Time grows with ``n_shifts * N**2``. None takes
        all ``N - 1`` shifts, which are all triplets.
    variant
        ``"paper"``, or ``"released"``: the form of the authors' code, for comparison. That form
        exchanges the two modalities, so that the order by image never matters; it permutes
        anchors instead of spots, and compares across anchors at the end of each row.
    generator
        Source of the random order; by default torch's global one.
    reduction
        ``"mean"`` over triplets, or ``"sum_over_n"``: per shift, their sum over the number of
        spots, which is about ``N`` times the mean. By default the mean for ``"paper"`` and the
        sum for ``"released"``, as in the authors' code.

    Returns
    -------
    Scalar.

    Raises
    ------
    InputValueError
        The matrices are not square, differ in shape or hold fewer than three spots; or
        ``n_shifts`` is not between 1 and ``N - 1``; or a choice is not known.

    References
    ----------
    Reconstructed from Fig. 3 of :cite:p:`huang2024rankbygene`.
    """
    check_same_shape(image_similarity, gene_similarity, "image_similarity", "gene_similarity")
    n = len(image_similarity)
    if image_similarity.shape != (n, n) or n < 3:
        msg = f"similarities must be [N, N] with N >= 3, found {tuple(image_similarity.shape)}"
        raise InputValueError(msg)
    shifts = n - 1 if n_shifts is None else n_shifts
    if not 1 <= shifts < n:
        msg = f"n_shifts is {n_shifts}; between 1 and N - 1 = {n - 1}, or None for all"
        raise InputValueError(msg)
    check_choice("variant", variant, ("paper", "released"))
    reduction = reduction or ("mean" if variant == "paper" else "sum_over_n")
    check_choice("reduction", reduction, ("mean", "sum_over_n"))
    order = torch.randperm(n, generator=generator, device=_device_of(generator, image_similarity))
    order = order.to(image_similarity.device, non_blocking=True)
    if variant == "released":
        total, mean = _released(image_similarity[order], gene_similarity[order], shifts)
    else:
        total, mean = _hinge(image_similarity, gene_similarity, order, shifts)
    return mean if reduction == "mean" else total / (shifts * n)


def _hinge(
    image: torch.Tensor, gene: torch.Tensor, order: torch.Tensor, shifts: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum and mean of the hinge over the triplets of some shifts."""
    image, gene = image[:, order], gene[:, order]
    anchor = torch.arange(len(image), device=image.device)[:, None]
    total = image.new_zeros(())
    n_triplets = image.new_zeros(())
    for shift in range(1, shifts + 1):
        gene_gap = gene - gene.roll(-shift, dims=1)
        image_gap = image - image.roll(-shift, dims=1)
        hinge = F.relu(gene_gap.abs() - gene_gap.sign() * image_gap)
        # An anchor's similarity to itself is 1 by definition and says nothing of its neighbours.
        valid = (order != anchor) & (order.roll(-shift) != anchor)
        total = total + (hinge * valid).sum()
        n_triplets = n_triplets + valid.sum()
    return total, total / n_triplets


def _released(
    image: torch.Tensor, gene: torch.Tensor, shifts: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum and mean over the pairs that the authors' code compares."""
    total = image.new_zeros(())
    for shift in range(1, shifts + 1):
        gene_gap = gene - gene.roll(-shift)
        image_gap = image - image.roll(-shift)
        total = total + F.relu(image_gap.abs() - gene_gap.abs()).sum()
    return total, total / (shifts * image.numel())


def _device_of(generator: torch.Generator | None, like: torch.Tensor) -> torch.device:
    return like.device if generator is None else generator.device
