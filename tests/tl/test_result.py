"""Summaries of scores whose right values are worked out by hand."""

from __future__ import annotations

from typing import Any

import anndata as ad
import pandas as pd
import pytest

from rankbygene.tl._result import CrossValidation


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
