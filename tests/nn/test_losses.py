from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from rankbygene.nn.losses import (
    cox_loss,
    discrete_time_loss,
    info_nce,
    nt_xent,
    ranking_consistency,
    similarity,
)

# Gaps by genes and by image, then the hinge of the paper and of the released code.
HINGES = [
    (0.2, 0.5, 0.0, 0.3),
    (0.2, 0.1, 0.1, 0.0),
    (0.2, -0.1, 0.3, 0.0),
    (0.2, -0.5, 0.7, 0.3),
    (0.2, 0.2, 0.0, 0.0),
    (0.2, 0.0, 0.2, 0.0),
    (0.0, 0.3, 0.0, 0.3),
]


def slow_ranking(image: torch.Tensor, gene: torch.Tensor) -> float:
    """Average the hinge over all triplets of different spots, one by one."""
    total, count = 0.0, 0
    for p, q, r in itertools.permutations(range(len(image)), 3):
        gene_gap = float(gene[p, q] - gene[p, r])
        image_gap = float(image[p, q] - image[p, r])
        total += max(0.0, abs(gene_gap) - math.copysign(1, gene_gap) * image_gap * (gene_gap != 0))
        count += 1
    return total / count


def random_pair(n: int, seed: int = 0, d: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    return similarity(features[0]), similarity(features[1])


@pytest.mark.parametrize(("gene_gap", "image_gap", "paper", "released"), HINGES)
def test_hinge_of_one_pair(
    gene_gap: float, image_gap: float, paper: float, released: float
) -> None:
    # Only the first anchor distinguishes its two neighbours.
    gene, image = torch.zeros(3, 3), torch.zeros(3, 3)
    gene[0, 1], image[0, 1] = gene_gap, image_gap
    assert float(ranking_consistency(image, gene, None)) == pytest.approx(paper / 3, abs=1e-6)
    assert max(0.0, abs(image_gap) - abs(gene_gap)) == pytest.approx(released, abs=1e-6)


def test_three_spots_by_hand() -> None:
    gene = torch.tensor([[1, 0.8, 0.2], [0.8, 1, 0.5], [0.2, 0.5, 1]])
    image = torch.tensor([[1, 0.6, 0.5], [0.6, 1, 0.7], [0.5, 0.7, 1]])
    assert float(ranking_consistency(image, gene, None)) == pytest.approx(1 / 3, abs=1e-6)


@given(st.integers(3, 9), st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_all_triplets_equal_the_slow_loop_and_ignore_the_order_of_spots(n: int, seed: int) -> None:
    image, gene = random_pair(n, seed)
    full = float(ranking_consistency(image, gene, None))
    assert full == pytest.approx(slow_ranking(image, gene), abs=1e-9)
    assert float(ranking_consistency(image, gene, n - 1)) == pytest.approx(full, abs=1e-9)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    again = ranking_consistency(image[order][:, order], gene[order][:, order], None)
    assert float(again) == pytest.approx(full, abs=1e-9)


def test_closed_forms() -> None:
    image, gene = random_pair(32, d=64)
    gaps = torch.stack([(gene - gene.roll(-k, 1)).abs() for k in range(1, 32)])
    own = torch.arange(32)
    valid = torch.stack(
        [(own[None] != own[:, None]) & (own.roll(-k)[None] != own[:, None]) for k in range(1, 32)]
    )
    mean_gap = float(gaps[valid].mean())
    assert float(ranking_consistency(gene, gene, None)) == 0
    assert float(ranking_consistency(-gene, gene, None)) == pytest.approx(2 * mean_gap)
    assert float(ranking_consistency(torch.ones_like(gene), gene, None)) == pytest.approx(mean_gap)
    # The released form does not see that the order is reversed.
    assert float(ranking_consistency(-gene, gene, 1, variant="released")) == 0
    assert float(ranking_consistency(image * 0, gene, 1, variant="released")) == 0
    assert float(ranking_consistency(2 * gene, gene, 1, variant="released")) > 0


def test_released_form_against_its_definition() -> None:
    image, gene = random_pair(8)
    generator = torch.Generator().manual_seed(3)
    value = ranking_consistency(image, gene, 2, variant="released", generator=generator)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    flat_image, flat_gene = image[order].flatten(), gene[order].flatten()
    expected = 0.0
    for shift in (1, 2):
        for i in range(64):
            image_gap = abs(float(flat_image[i] - flat_image[(i + shift) % 64]))
            gene_gap = abs(float(flat_gene[i] - flat_gene[(i + shift) % 64]))
            expected += max(0.0, image_gap - gene_gap) / 8
    assert float(value) == pytest.approx(expected / 2)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_scale_of_the_sum(variant: str) -> None:
    n = 6
    image, gene = random_pair(n)
    values = [
        ranking_consistency(
            image,
            gene,
            None,
            variant,  # type: ignore[arg-type]
            generator=torch.Generator().manual_seed(0),
            reduction=reduction,  # type: ignore[arg-type]
        )
        for reduction in ("mean", "sum_over_n", None)
    ]
    # Of the n pairs of an anchor and a shift, two touch the anchor itself.
    assert float(values[1] / values[0]) == pytest.approx(n - 2 if variant == "paper" else n)
    assert values[2] == values[variant == "released"]


def test_sampled_triplets_average_to_all_of_them() -> None:
    image, gene = random_pair(7)
    full = float(ranking_consistency(image, gene, None))
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack(
        [ranking_consistency(image, gene, 1, generator=generator) for _ in range(4000)]
    )
    assert abs(float(draws.mean()) - full) < 4 * float(draws.std()) / math.sqrt(4000)


def test_minimising_it_recovers_the_order_by_genes() -> None:
    generator = torch.Generator().manual_seed(0)
    gene = similarity(torch.randn(32, 64, generator=generator))
    free = torch.randn(32, 64, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([free], lr=0.02)
    for _ in range(1000):
        loss = ranking_consistency(similarity(free), gene, 1, generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    image = similarity(free.detach())
    others = ~torch.eye(32, dtype=torch.bool)
    rows = [spearmanr(image[i, others[i]], gene[i, others[i]]).statistic for i in range(32)]
    assert sum(rows) / 32 > 0.99


def test_softmax_keeps_the_order_and_shrinks_the_gaps() -> None:
    features = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    cosine, soft = similarity(features), similarity(features, "softmax")
    assert torch.equal(cosine.argsort(1), soft.argsort(1))
    assert torch.allclose(soft.sum(1), torch.ones(64))
    assert (
        float(
            (soft[:, 1:] - soft[:, :-1]).abs().mean()
            / (cosine[:, 1:] - cosine[:, :-1]).abs().mean()
        )
        < 2 / 64
    )


def test_contrast_by_hand_and_its_direction() -> None:
    identity = torch.eye(2)
    close = torch.tensor([[0.6, 0.8], [0.8, 0.6]])
    assert float(info_nce(identity, close)) == pytest.approx(2.12693, abs=1e-5)
    keys = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    forward, backward = info_nce(identity, keys), info_nce(keys, identity)
    assert float(forward) == pytest.approx(0.06470, abs=1e-5)
    assert float(backward) == pytest.approx(1.06349, abs=1e-5)
    both = info_nce(identity, keys, symmetric=True)
    assert float(both) == pytest.approx(float(forward + backward) / 2)
    assert float(info_nce(3 * identity, 0.1 * keys)) == pytest.approx(float(forward), abs=1e-6)


def test_bad_arguments_are_named() -> None:
    square = torch.eye(4)
    with pytest.raises(ValueError, match=r"query \(4, 4\) and key \(3, 4\)"):
        info_nce(square, square[:3])
    for image, shifts, variant, text in (
        (torch.ones(4, 3), 1, "paper", r"\[N, N\]"),
        (torch.eye(2), 1, "paper", "N >= 3"),
        (square, 4, "paper", "n_shifts is 4"),
        (square, 1, "other", "'paper', 'released'"),
    ):
        with pytest.raises(ValueError, match=text):
            ranking_consistency(image, image, shifts, variant)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'mean', 'sum_over_n'"):
        ranking_consistency(square, square, reduction="sum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'cosine', 'softmax'"):
        similarity(square, "euclidean")  # type: ignore[arg-type]


def slow_nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float) -> float:
    """Sum Equation 1 of SimCLR view by view."""
    views = [*first, *second]
    n = len(first)
    total = 0.0
    for i, view in enumerate(views):
        cosine = [float(torch.cosine_similarity(view, other, dim=0)) for other in views]
        weights = [math.exp(value / temperature) for value in cosine]
        partner = weights[(i + n) % (2 * n)]
        # Subtracting the view's own weight from the sum of all would cancel most digits.
        total -= math.log(partner / sum(weights[:i] + weights[i + 1 :]))
    return total / (2 * n)


@given(st.integers(1, 7), st.sampled_from([0.1, 0.5, 2.0]), st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_nt_xent_is_equation_1(n: int, temperature: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, n, 5, generator=generator, dtype=torch.float64)
    expected = slow_nt_xent(first, second, temperature)
    assert float(nt_xent(first, second, temperature)) == pytest.approx(expected, abs=1e-9)
    assert float(nt_xent(second, first, temperature)) == pytest.approx(expected, abs=1e-9)


def test_nt_xent_of_what_cannot_be_told_apart() -> None:
    same = torch.ones(6, 3, requires_grad=True)
    loss = nt_xent(same, same)
    assert loss.item() == pytest.approx(math.log(11), abs=1e-5)
    loss.backward()
    assert torch.isfinite(same.grad).all()
    with pytest.raises(ValueError, match="same shape"):
        nt_xent(torch.ones(2, 3), torch.ones(3, 3))


def test_negatives_scaled_as_in_the_released_code_cost_nothing() -> None:
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    key = torch.tensor([[0.5, 0.75**0.5], [0.75**0.5, 0.5]])
    assert float(info_nce(query, key, 0.05)) == pytest.approx(7.3212, abs=1e-3)
    released = info_nce(query, key, 0.05, negative_logit_scale=0.1)
    assert float(released) == pytest.approx(0.00026, abs=1e-5)
    key = torch.tensor([[0.6, 0.8], [0.8, 0.6]])
    assert float(info_nce(query, key, 0.1)) == pytest.approx(2.12693, abs=1e-5)


def slow_contrast(query: torch.Tensor, key: torch.Tensor, temperature: float) -> float:
    """Row by row, in double precision and by exponentials relative to the largest."""
    total = 0.0
    for p, row in enumerate(query.double()):
        cosines = [
            float(row @ other / max(row.norm(), 1e-12) / max(other.norm(), 1e-12))
            for other in key.double()
        ]
        largest = max(cosines)
        shares = [math.exp((one - largest) / temperature) for one in cosines]
        total += math.log(sum(shares)) - (cosines[p] - largest) / temperature
    return total / len(query)


@pytest.mark.parametrize("temperature", [1e-4, 0.05, 1.0, 1e6])
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("rows", ["random", "identical", "zero", "opposite"])
def test_contrast_at_its_edges(rows: str, n: int, temperature: float) -> None:
    query, key = torch.randn(2, n, 6, generator=torch.Generator().manual_seed(0)).unbind()
    if rows == "identical":
        query, key = query[:1].expand(n, 6), query[:1].expand(n, 6)
    elif rows == "zero":
        key = torch.zeros(n, 6)
    elif rows == "opposite":
        key = -query
    query = query.clone().requires_grad_()
    loss = info_nce(query, key, temperature)
    # Logits are rounded to a part in 1e7 of 1 / temperature.
    tolerance = 1e-5 + 1e-6 / temperature
    assert float(loss.detach()) == pytest.approx(
        slow_contrast(query.detach(), key, temperature), rel=1e-4, abs=tolerance
    )
    if rows in ("identical", "zero"):
        assert float(loss.detach()) == pytest.approx(math.log(n), abs=1e-5)
    loss.backward()
    assert bool(query.grad.isfinite().all())
    assert bool(nt_xent(query, key, temperature).isfinite())


@pytest.mark.parametrize("n", [3, 4, 7])
def test_ties_and_equal_rows_cost_nothing_they_should_not(n: int) -> None:
    features = torch.randn(n, 5, generator=torch.Generator().manual_seed(0))
    image, equal = similarity(features), similarity(torch.ones(n, 5))
    assert float(ranking_consistency(image, equal, n_shifts=None)) == 0
    gene = similarity(features.round())
    flat = ranking_consistency(equal, gene, n_shifts=None)
    gaps = [abs(float(gene[p, q] - gene[p, r])) for p, q, r in itertools.permutations(range(n), 3)]
    assert float(flat) == pytest.approx(sum(gaps) / len(gaps), abs=1e-6)


def test_losses_are_single_precision_within_autocast() -> None:
    first, second = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0)).unbind()

    def losses(a: torch.Tensor, b: torch.Tensor) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        ranking = ranking_consistency(similarity(a), similarity(b), generator=generator)
        return [info_nce(a, b, 0.05), nt_xent(a, b, 0.05), ranking]

    expected = losses(first, second)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, losses(first, second), expected))
    halves = first.bfloat16(), second.bfloat16()
    for half, full in zip(losses(*halves), losses(*(h.float() for h in halves)), strict=True):
        assert half.dtype == torch.float32
        assert torch.equal(half, full)


@pytest.mark.parametrize("temperature", [0.0, -0.1, math.nan])
def test_temperatures_that_are_none_are_refused(temperature: float) -> None:
    rows = torch.randn(4, 3)
    for loss in (info_nce, nt_xent):
        with pytest.raises(ValueError, match="temperature is"):
            loss(rows, rows, temperature)
    with pytest.raises(ValueError, match="temperature is"):
        similarity(rows, "softmax", temperature)
    with pytest.raises(ValueError, match=r"\[N, D\] with N >= 1"):
        info_nce(rows[:0], rows[:0])


@pytest.mark.parametrize("n", [1, 2, 5])
def test_every_loss_has_its_closed_form(n: int) -> None:
    equal, apart = torch.ones(n, 3), torch.eye(n)
    assert float(info_nce(equal, equal)) == pytest.approx(math.log(n), abs=1e-6)
    orthogonal = math.log(1 + (n - 1) * math.exp(-2))
    assert float(info_nce(apart, apart, 0.5)) == pytest.approx(orthogonal, abs=1e-6)
    assert float(nt_xent(equal, equal)) == pytest.approx(math.log(2 * n - 1), abs=1e-6)
    partner = math.log(1 + (2 * n - 2) * math.exp(-2))
    assert float(nt_xent(apart, apart, 0.5)) == pytest.approx(partner, abs=1e-6)
    # Equal risks that die one by one: the k-th last is one of k.
    risk, time, event = torch.zeros(n), torch.arange(n).float(), torch.ones(n)
    one_by_one = math.lgamma(n + 1) / n
    assert float(cox_loss(risk, time, event)) == pytest.approx(one_by_one, abs=1e-6)
    at_once = cox_loss(risk, torch.ones(n), event, ties="efron")
    assert float(at_once) == pytest.approx(one_by_one, abs=1e-6)
    breslow = cox_loss(risk, torch.ones(n), event, ties="breslow")
    assert float(breslow) == pytest.approx(math.log(n), abs=1e-6)
    # Hazards of a half: one factor for every interval up to the own one.
    for seen in (0, 1):
        loss = discrete_time_loss(torch.zeros(1, n), torch.tensor([n - 1]), torch.tensor([seen]))
        assert float(loss) == pytest.approx(n * math.log(2), abs=1e-6)


def test_similarity_by_hand() -> None:
    rows = torch.tensor([[3.0, 4.0], [2.0, 0.0]])
    torch.testing.assert_close(similarity(rows), torch.tensor([[1.0, 0.6], [0.6, 1.0]]))
    share = 1 / (1 + math.exp(-0.4 / 0.2))
    expected = torch.tensor([[share, 1 - share], [1 - share, share]])
    torch.testing.assert_close(similarity(rows, "softmax", 0.2), expected)
