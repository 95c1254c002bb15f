"""Contrast whose targets are softened by how alike the pairs of a batch are."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from rankbygene._arguments import checked
from rankbygene.nn.losses._shared import check_pair, check_temperature

__all__ = ["soft_target_contrast"]


@checked
def soft_target_contrast(
    gene: torch.Tensor,
    image: torch.Tensor,
    temperature: float = 1.0,
    targets: Literal["corrected", "released"] = "corrected",
) -> torch.Tensor:
    r"""Contrast of two modalities in which alike spots are not told apart.

    .. math:: T = \mathrm{softmax}\left(\frac{g g^\top + s s^\top}{2 \tau}\right), \quad
        L = \tfrac12 \left(H(T, g s^\top / \tau) + H(T, s g^\top / \tau)\right)

    with the cross-entropy :math:`H` of rows. Gradients flow through the targets, too.

    Parameters
    ----------
    gene, image
        Embeddings :math:`g` and :math:`s`, ``[B, C]``, row by row of the same spots.
    temperature
        :math:`\tau`.
    targets
        ``"released"``: the released code takes the transpose of :math:`T` for the second direction,
        whose rows are no distributions.

    Returns
    -------
    Scalar, the mean over spots.

    Raises
    ------
    InputValueError
        The shapes differ or are not ``[B, C]``, or the temperature is not positive.

    References
    ----------
    :cite:p:`xie2023bleep`
    """
    check_pair(gene, image, "gene", "image")
    check_temperature(temperature)
    logits = gene @ image.T / temperature
    alike = (gene @ gene.T + image @ image.T) / 2
    target = F.softmax(alike / temperature, dim=1)
    back = target.T if targets == "released" else target
    to_image = -(target * F.log_softmax(logits, dim=1)).sum(1)
    to_gene = -(back * F.log_softmax(logits.T, dim=1)).sum(1)
    return (to_image + to_gene).mean() / 2
