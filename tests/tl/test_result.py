"""Summaries of scores whose right values are worked out by hand."""

from __future__ import annotations

from typing import Any

import anndata as ad
import pandas as pd
import pytest

from rankbygene.errors import InputKeyError, InputValueError
from rankbygene.tl.cross_validation._result import CrossValidation


def result_of(rows: list[dict[str, Any]]) -> CrossValidation:
    return CrossValidation(pd.DataFrame(rows), ad.AnnData(), pd.DataFrame(), ("m",), (), (), {})


def test_slides_without_a_patient_are_patients_of_their_own() -> None:
    owners = {"a": "p", "b": "p", "c": None, "d": None}
    rows = [
        {"method": "m", "seed": 0, "fold": slide, "slide": slide, "patient": owner}
        | {"gene": gene, "pearson": value + shift}
        for (slide, owner), value in zip(owners.items(), (0.0, 0.2, 0.4, 0.6), strict=True)
        for gene, shift in (("x", 0.0), ("y", 0.2))
    ]
    scores = result_of(rows)._matrix("m", "pearson")
    assert scores["x"].tolist() == pytest.approx([0.1, 0.4, 0.6])
    assert scores.mean().mean() == pytest.approx((0.1 + 0.4 + 0.6) / 3 + 0.1)


def test_blocks_of_a_slide_are_one_unit() -> None:
    rows = [
        {"method": "m", "seed": 0, "fold": str(block), "slide": slide, "patient": None}
        | {"gene": "x", "pearson": block / 10 + shift}
        for slide, shift in (("a", 0.0), ("b", 0.4))
        for block in range(4)
    ]
    assert result_of(rows)._matrix("m", "pearson")["x"].tolist() == pytest.approx([0.15, 0.55])


def test_the_best_genes_by_an_error_have_the_least() -> None:
    rows = [
        {"method": "m", "seed": 0, "fold": fold, "slide": fold, "patient": fold}
        | {"gene": gene, "pearson": 0.0, "mse": value}
        for fold in "ab"
        for gene, value in (("x", 1.0), ("y", 2.0), ("z", 9.0))
    ]
    assert result_of(rows).top_k(1, metric="mse")["m"] == 1.0


def uneven(value: Any) -> list[dict[str, Any]]:
    """Patient p has three slides and q one; ``value(seed, patient, gene)`` scores them."""
    owners = {"a": "p", "b": "p", "c": "p", "d": "q"}
    return [
        {"method": "m", "seed": seed, "fold": fold, "slide": slide, "patient": owner}
        | {"gene": gene, "pearson": value(seed, owner, gene)}
        for seed in (0, 1)
        for fold, slides in (("x", "abcd"), ("y", "ABCD"))
        for slide in slides
        for owner in [owners[slide.lower()] + fold]
        for gene in "gh"
    ]


def test_seeds_differ_by_patients_and_not_by_slides() -> None:
    """One patient in two moves by 0.4: the mean by 0.2, however many slides that patient has."""
    rows = uneven(lambda seed, patient, _: 0.4 * seed * (patient[0] == "p"))
    found = result_of(rows)
    assert found._matrix("m", "pearson").mean().mean() == pytest.approx(0.1)
    assert found._sd_over_seeds("m") == pytest.approx(0.2 / 2**0.5)


def test_best_genes_are_those_of_patients_and_not_of_slides() -> None:
    """Gene g is best on the patient with three slides, h by more on the other one."""
    table = {("p", "g"): 0.5, ("p", "h"): 0.3, ("q", "g"): 0.1, ("q", "h"): 0.7}
    found = result_of(uneven(lambda _, patient, gene: table[patient[0], gene]))
    assert found.top_k(1)["m"] == pytest.approx(0.5)
    assert found.top_k(2)["m"] == pytest.approx(0.4)


def test_more_best_genes_than_genes_and_unknown_scores_are_refused() -> None:
    found = result_of(uneven(lambda *_: 0.5))
    for k in (3, 50):
        with pytest.raises(InputValueError, match="2 genes"):
            found.top_k(k)
    with pytest.raises(InputKeyError, match="the scores are pearson"):
        found.top_k(1, metric="gene")
