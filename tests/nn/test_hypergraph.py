from __future__ import annotations

import pytest
import torch

from rankbygene.nn import HypergraphConv, HypergraphEncoder, similarity_hypergraph


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_convolution_by_hand() -> None:
    conv = HypergraphConv(1, 1)
    torch.nn.init.ones_(conv.linear.weight)
    incidence = torch.tensor([[[1.0, 1, 0], [1, 1, 1], [0, 1, 1]]])
    nodes = conv(torch.tensor([[[1.0], [2], [3]]]), incidence)
    assert torch.allclose(nodes.flatten(), torch.tensor([1.75, 2.0, 2.25]))


@pytest.mark.parametrize("n_edges", [2, 6])
def test_convolution_agrees_with_torch_geometric(n_edges: int) -> None:
    geometric = pytest.importorskip(
        "torch_geometric.nn",
        reason="torch-geometric is not installed: no reference to compare with",
    )
    torch.manual_seed(0)
    ours, theirs = HypergraphConv(5, 4), geometric.HypergraphConv(5, 4)
    torch.nn.init.normal_(theirs.bias)
    ours.linear.weight.data.copy_(theirs.lin.weight)
    ours.bias.data.copy_(theirs.bias)
    incidence = (seeded(3, 7, n_edges) > 0.3).float()
    incidence[1, 2] = 0  # a node in no hyperedge
    incidence[2, :, 1] = 0  # an empty hyperedge
    nodes = seeded(3, 7, 5, seed=1)
    computed = ours(nodes, incidence)
    for batch in range(3):
        index = incidence[batch].nonzero().T
        expected = theirs(nodes[batch], index, num_edges=n_edges)
        assert torch.allclose(computed[batch], expected, atol=1e-5)


def test_every_edge_is_a_spot_and_its_three_nearest_by_cosine() -> None:
    features = seeded(4, 9, 6)
    incidence = similarity_hypergraph(features)
    assert torch.equal(incidence.sum(1), torch.full((4, 9), 4.0))
    assert bool((incidence.diagonal(dim1=1, dim2=2) == 1).all())
    unit = torch.nn.functional.normalize(features, dim=-1)
    for batch in range(4):
        for edge in range(9):
            cosine = unit[batch] @ unit[batch, edge]
            cosine[edge] = 2
            members = set(incidence[batch, :, edge].nonzero().flatten().tolist())
            assert members == set(cosine.topk(4).indices.tolist())


@pytest.mark.parametrize("n_present", [1, 2, 3, 7])
def test_missing_spots_are_as_if_they_were_not_there(n_present: int) -> None:
    torch.manual_seed(0)
    encoder = HypergraphEncoder(6, 8, 5)
    features = seeded(2, 9, 6)
    present = torch.arange(9).expand(2, 9) < n_present
    incidence = similarity_hypergraph(features, present)
    few = features[:, :n_present]
    alone = similarity_hypergraph(few)
    assert torch.equal(incidence[:, :n_present, :n_present], alone)
    assert incidence.sum() == alone.sum()
    spots = torch.arange(18).view(2, 9)
    _, mean = encoder(features.flatten(0, 1), spots.masked_fill(~present, -1), incidence)
    _, expected = encoder(features.flatten(0, 1), spots[:, :n_present], alone)
    assert torch.allclose(mean, expected, atol=1e-6)


def test_the_order_of_the_nodes_does_not_matter() -> None:
    torch.manual_seed(0)
    encoder = HypergraphEncoder(6, 8, 5)
    features, neighbours = (
        seeded(12, 6),
        torch.tensor([[0, 3, 4, 5, 6, 2, 1, -1], [7, 8, 9, 3, 2, 1, 0, 11]]),
    )
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    means = []
    for hoods in (neighbours, neighbours[:, order]):
        incidence = similarity_hypergraph(features[hoods.clamp(min=0)], hoods >= 0)
        means.append(encoder(features, hoods, incidence)[1])
    assert torch.allclose(*means, atol=1e-5)
