from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import rankbygene as rbg


def test_results_before_training_name_the_call(make_slides: Any) -> None:
    slides = make_slides(2)
    with pytest.raises(ValueError, match="setup_spatialdata"):
        rbg.model.RankByGene(slides, backbone="test_resnet", pretrained=False)
    rbg.model.RankByGene.setup_spatialdata(slides)
    untrained = rbg.model.RankByGene(
        slides, backbone="test_resnet", pretrained=False, tile_px=32, genes=5
    )
    for call in (
        untrained.get_latent_representation,
        untrained.get_normalized_expression,
        untrained.annotate,
    ):
        with pytest.raises(RuntimeError, match=r"train\(\)"):
            call()
    assert "not trained" in repr(untrained)


def test_rows_follow_the_table_whatever_its_order(model: Any, make_slides: Any) -> None:
    (sdata,) = make_slides(1)
    expected = model.get_normalized_expression(sdata)
    order = np.random.default_rng(0).permutation(sdata["table"].n_obs)[:25]
    sdata.tables["table"] = sdata["table"][order].copy()
    shuffled = model.get_normalized_expression(sdata)
    pd.testing.assert_frame_equal(shuffled, expected.iloc[order], rtol=1e-4, atol=1e-5)


def test_genes_and_scales_of_predictions(model: Any, slides: Any) -> None:
    chosen = model.genes[3:1:-1]
    table = model.get_normalized_expression(slides[0], chosen)
    assert list(table.columns) == chosen
    counts = model.get_normalized_expression(slides[0], chosen, scale="counts")
    np.testing.assert_allclose(
        np.log1p(counts.clip(lower=0)), table.clip(lower=0), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(KeyError, match="not_a_gene"):
        model.get_normalized_expression(slides[0], ["not_a_gene"])


def test_a_new_slide_needs_no_counts_and_is_test(model: Any, make_slides: Any) -> None:
    (new,) = make_slides(1, seed=11)
    table = new["table"]
    table.X = table.X * 0
    model.annotate(new)
    assert set(table.obs["rankbygene_split"]) == {"test"}
    assert np.isfinite(table.obsm["X_rankbygene"]).all()
    with pytest.raises(ValueError, match="zero|counts"):
        model.get_latent_representation(new, "gene")


def test_others_keys_are_never_replaced(model: Any, make_slides: Any) -> None:
    (sdata,) = make_slides(1)
    table = sdata["table"]
    table.layers["rankbygene"] = table.X.copy()
    with pytest.raises(ValueError, match=r"layers\['rankbygene'\].*key_added"):
        model.annotate(sdata)
    assert "X_rankbygene" not in table.obsm
    model.annotate(sdata, key_added="second")
    model.annotate(sdata, key_added="second")
    assert "X_second" in table.obsm


def test_a_layer_beyond_memory_is_refused_before_training(
    make_slides: Any, fit_tiny: Any, monkeypatch: Any
) -> None:
    (sdata,) = make_slides(1)
    monkeypatch.setattr("rankbygene.base.spots._annotate.free_memory", lambda: 1000)
    monkeypatch.setattr("rankbygene.model.RankByGene._fit", lambda *a, **k: pytest.fail("trained"))
    with (
        pytest.warns(UserWarning, match="not independent"),
        pytest.raises(ValueError, match="GiB.*Subset"),
    ):
        fit_tiny(sdata)


def test_gene_and_image_representations_align(model: Any, slides: Any) -> None:
    image = model.get_latent_representation(slides[0])
    gene = model.get_latent_representation(slides[0], "gene")
    assert image.shape[0] == gene.shape[0] == slides[0]["table"].n_obs
    assert gene.dtype == np.float32
    assert np.isfinite(gene).all()
    with pytest.raises(ValueError, match="allowed are 'image', 'gene'"):
        model.get_latent_representation(slides[0], "protein")
