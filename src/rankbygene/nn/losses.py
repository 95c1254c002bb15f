"""Losses of gene-guided image representations, and of censored times.

Notation: a batch of ``N`` spots, ``S`` a matrix of similarities ``[N, N]`` within one modality.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError
from rankbygene.nn._survival import cox_loss, discrete_time_loss

__all__ = [
    "cox_loss",
    "discrete_time_loss",
    "info_nce",
    "nt_xent",
    "ranking_consistency",
    "similarity",
]

RankingVariant = Literal["paper", "released"]
RankingReduction = Literal["mean", "sum_over_n"]
Similarity = Literal["cosine", "softmax"]


@checked
def info_nce(
    query: torch.Tensor,
    key: torch.Tensor,
    temperature: float = 0.1,
    symmetric: bool = False,
    negative_logit_scale: float = 1.0,
) -> torch.Tensor:
    r"""Contrast matching rows of two matrices against all others.

    .. math::
        L = -\frac1N \sum_p \log
        \frac{\exp(\cos(q_p, k_p)/\tau)}{\sum_r \exp(\cos(q_p, k_r)/\tau)}

    Parameters
    ----------
    query, key
        ``[N, D]``; row ``p`` of one belongs to row ``p`` of the other.
    temperature
        :math:`\tau`.
    symmetric
        Average with the loss in which the roles are exchanged.
    negative_logit_scale
        Factor of the logits of all other rows. The released code of :cite:p:`qu2025nh2st` has 0.1,
        with which a negative above the positive costs nothing until it is ten times as similar.

    Returns
    -------
    Scalar, the mean over rows.

    Raises
    ------
    InputValueError
        The shapes differ or are not ``[N, D]``, or the temperature is not positive.

    References
    ----------
    :cite:p:`vandenoord2018infonce`; query image and keys genes in :cite:p:`huang2024rankbygene`.
    """
    _check_pair(query, key, "query", "key")
    _check_temperature(temperature)
    logits = _cosine(query, key) / temperature
    if negative_logit_scale != 1:
        itself = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = torch.where(itself, logits, logits * negative_logit_scale)
    labels = torch.arange(len(logits), device=logits.device)
    loss = F.cross_entropy(logits, labels)
    return (loss + F.cross_entropy(logits.T, labels)) / 2 if symmetric else loss


@checked
def nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    r"""Contrast two views of each image against all other views of the batch.

    With :math:`z` the ``2 N`` rows of both matrices and :math:`j(i)` the other view of the image
    that row ``i`` shows:

    .. math::
        L = -\frac{1}{2N} \sum_i \log
        \frac{\exp(\cos(z_i, z_{j(i)})/\tau)}{\sum_{k \neq i} \exp(\cos(z_i, z_k)/\tau)}

    It is :func:`info_nce` in both directions with the views of the same side as further
    negatives. Where nothing is told apart it is :math:`\log(2N - 1)`.

    Parameters
    ----------
    first, second
        ``[N, D]``; row ``p`` of both shows image ``p``.
    temperature
        :math:`\tau`.

    Returns
    -------
    Scalar, the mean over rows.

    Raises
    ------
    InputValueError
        The shapes differ or are not ``[N, D]``, or the temperature is not positive.

    References
    ----------
    Equation 1 of :cite:p:`chen2020simclr`.
    """
    _check_pair(first, second, "first", "second")
    _check_temperature(temperature)
    both = torch.cat([first, second])
    logits = (_cosine(both) / temperature).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(both), device=both.device).roll(len(first))
    return F.cross_entropy(logits, partner)


@checked
def similarity(
    features: torch.Tensor, kind: Similarity = "cosine", temperature: float = 1.0
) -> torch.Tensor:
    """Similarity of every pair of rows.

    Parameters
    ----------
    features
        ``[N, D]``.
    kind
        ``"cosine"``, or ``"softmax"``: cosine through a softmax over each row. The softmax keeps
        the order within a row but shrinks every gap by about ``1/N``, and with it the gradient of
        the ranking loss: on random features and with weight 5 it is 13 % of the contrastive
        gradient by cosine and 0.2 % by softmax at ``N = 64``. Summing instead of averaging
        (``reduction="sum_over_n"``) makes up for it.
    temperature
        Of the softmax.

    Returns
    -------
    ``[N, N]``.

    Raises
    ------
    InputValueError
        ``kind`` is not known, or the temperature is not positive.
    """
    _check_choice("kind", kind, ("cosine", "softmax"))
    _check_temperature(temperature)
    cosine = _cosine(features)
    return cosine if kind == "cosine" else F.softmax(cosine / temperature, dim=1)


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
    _check_same_shape(image_similarity, gene_similarity, "image_similarity", "gene_similarity")
    n = len(image_similarity)
    if image_similarity.shape != (n, n) or n < 3:
        msg = f"similarities must be [N, N] with N >= 3, found {tuple(image_similarity.shape)}"
        raise InputValueError(msg)
    shifts = n - 1 if n_shifts is None else n_shifts
    if not 1 <= shifts < n:
        msg = f"n_shifts is {n_shifts}; between 1 and N - 1 = {n - 1}, or None for all"
        raise InputValueError(msg)
    _check_choice("variant", variant, ("paper", "released"))
    reduction = reduction or ("mean" if variant == "paper" else "sum_over_n")
    _check_choice("reduction", reduction, ("mean", "sum_over_n"))
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


def _cosine(rows: torch.Tensor, others: torch.Tensor | None = None) -> torch.Tensor:
    """Cosine of every row of a matrix with every row of another, or of itself.

    In single precision at least, within autocast too: the products of half precision are off by more
    than temperatures tell apart.
    """
    with torch.autocast(rows.device.type, enabled=False):
        unit = _unit(rows)
        return unit @ (unit if others is None else _unit(others)).T


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return F.normalize(rows if rows.dtype == torch.float64 else rows.float(), dim=1)


def _device_of(generator: torch.Generator | None, like: torch.Tensor) -> torch.device:
    return like.device if generator is None else generator.device


def _check_same_shape(a: torch.Tensor, b: torch.Tensor, name_a: str, name_b: str) -> None:
    if a.shape != b.shape:
        msg = f"{name_a} {tuple(a.shape)} and {name_b} {tuple(b.shape)} must have the same shape"
        raise InputValueError(msg)


def _check_pair(a: torch.Tensor, b: torch.Tensor, name_a: str, name_b: str) -> None:
    _check_same_shape(a, b, name_a, name_b)
    if a.ndim != 2 or not len(a):
        msg = f"{name_a} and {name_b} are {tuple(a.shape)}; [N, D] with N >= 1 is needed"
        raise InputValueError(msg)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        msg = f"temperature is {temperature}; a positive number is needed, such as 0.1"
        raise InputValueError(msg)


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        msg = f"{name}={value!r} is not known; choose {' or '.join(map(repr, allowed))}"
        raise InputValueError(msg)
