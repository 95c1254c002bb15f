"""Hypergraphs over the spots of a neighbourhood, as batches of small dense matrices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from rankbygene._arguments import checked

__all__ = ["HypergraphConv", "HypergraphEncoder", "similarity_hypergraph"]


@checked
def similarity_hypergraph(
    features: torch.Tensor, present: torch.Tensor | None = None, k: int = 3
) -> torch.Tensor:
    """Group every spot of a neighbourhood with the spots that look most like it.

    Hyperedge ``i`` holds node ``i`` and the ``k`` other nodes of the largest cosine similarity.

    Parameters
    ----------
    features
        ``[B, n, C]``: ``B`` neighbourhoods of ``n`` nodes.
    present
        bool ``[B, n]``; a node that is False is in no hyperedge and its own one is empty. All are
        present by default.
    k
        Partners of a node; all others where a neighbourhood has fewer.

    Returns
    -------
    Incidence ``[B, n, n]``, zeros and ones in the dtype of ``features``: entry ``(v, e)`` is 1
    where node ``v`` is in hyperedge ``e``.

    References
    ----------
    :cite:p:`qu2025nh2st`
    """
    n = features.shape[1]
    unit = F.normalize(features.detach(), dim=-1)
    itself = torch.eye(n, dtype=torch.bool, device=features.device)
    allowed = ~itself if present is None else ~itself & present[:, None, :] & present[:, :, None]
    similarity = (unit @ unit.mT).masked_fill(~allowed, -torch.inf)
    partners = similarity.topk(min(k, n - 1), dim=-1).indices
    # Rows are edges until the end. What topk fills up with where partners are few is not allowed.
    members = torch.zeros_like(similarity, dtype=torch.bool).scatter_(2, partners, True) & allowed
    members = members | (itself if present is None else itself & present[:, :, None])
    return members.mT.to(features.dtype)


class HypergraphConv(nn.Module):
    r"""Convolution over hyperedges: nodes are averaged into their edges, edges into their nodes.

    .. math:: X' = D^{-1} H B^{-1} H^\top X \Theta + b

    with the incidence ``H``, and on the diagonals of ``D`` and ``B`` the number of edges of each
    node and the number of nodes of each edge. Nodes without an edge get ``b``.

    Parameters
    ----------
    n_in, n_out
        Widths.

    References
    ----------
    :cite:p:`bai2021hypergraph`, without attention and with edges of weight 1.
    """

    @checked
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out, bias=False)
        self.bias = nn.Parameter(torch.zeros(n_out))
        nn.init.xavier_uniform_(self.linear.weight)

    def forward(self, nodes: torch.Tensor, incidence: torch.Tensor) -> torch.Tensor:
        """Map nodes ``[B, n, n_in]`` on a hypergraph ``[B, n, m]`` to ``[B, n, n_out]``."""
        return self.propagate(self.linear(nodes), incidence)

    def propagate(self, projected: torch.Tensor, incidence: torch.Tensor) -> torch.Tensor:
        """Do what follows the linear map, which acts on each node by itself and can come earlier."""
        node_degree = incidence.sum(2, keepdim=True).clamp(min=1)
        edge_degree = incidence.sum(1).clamp(min=1)[..., None]
        edges = incidence.mT @ projected / edge_degree
        return incidence @ edges / node_degree + self.bias


class HypergraphEncoder(nn.Module):
    """Two hypergraph convolutions with ReLU, and the mean over the present nodes.

    Parameters
    ----------
    n_in, n_hidden, n_out
        Widths.

    References
    ----------
    :cite:p:`qu2025nh2st`
    """

    @checked
    def __init__(self, n_in: int, n_hidden: int, n_out: int) -> None:
        super().__init__()
        self.first = HypergraphConv(n_in, n_hidden)
        self.second = HypergraphConv(n_hidden, n_out)

    def forward(
        self, spots: torch.Tensor, neighbours: torch.Tensor, incidence: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Represent neighbourhoods.

        Parameters
        ----------
        spots
            ``[U, n_in]``.
        neighbours
            int64 ``[B, n]``: the spots of each neighbourhood, -1 for a missing one.
        incidence
            ``[B, n, m]``.

        Returns
        -------
        Nodes ``[B, n, n_out]``, and the mean ``[B, n_out]`` over those that are not missing.
        """
        # The first linear map is applied once to a spot, however many neighbourhoods it is in. Rows are
        # looked up as embeddings are: the gradient of an index is summed in the order of threads.
        projected = F.embedding(neighbours.clamp(min=0), self.first.linear(spots))
        hidden = F.relu(self.first.propagate(projected, incidence))
        nodes = F.relu(self.second(hidden, incidence))
        weight = (neighbours >= 0)[..., None].to(nodes.dtype)
        return nodes, (nodes * weight).sum(1) / weight.sum(1).clamp(min=1)
