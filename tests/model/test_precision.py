from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rankbygene as rbg
from rankbygene.base._inference import choose_precision
from rankbygene.errors import InputTypeError, InputValueError


@pytest.mark.parametrize("native", [False, True])
def test_no_cpu_computes_in_half_precision_unless_asked(native: bool, monkeypatch: Any) -> None:
    """Processors that know bfloat16 gave other numbers for the same seed, without a word."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: native)
    assert choose_precision("auto", torch.device("cpu")) == "32-true"
    assert choose_precision("bf16-mixed", torch.device("cpu")) == "bf16-mixed"
    on_gpu = "bf16-mixed" if native else "32-true"
    assert choose_precision("auto", torch.device("cuda")) == on_gpu


def test_results_are_float32_unless_asked_and_say_so(
    model: Any, make_slides: Callable[..., Any], tmp_path: Path
) -> None:
    (new,) = make_slides(1, seed=31)
    default = model.get_normalized_expression(new).to_numpy()
    full, half = (
        model.get_normalized_expression(new, precision=one).to_numpy()
        for one in ("32-true", "bf16-mixed")
    )
    np.testing.assert_array_equal(default, full)
    assert 0 < np.abs(half - full).max() < 0.2
    latent = model.get_latent_representation(new)
    for precision in ("auto", "bf16-mixed"):
        model.annotate(new, precision=precision)
        table = new["table"]
        used = {"auto": "32-true"}.get(precision, precision)
        said = {"precision": used, "device": "cpu"}
        assert table.uns["rankbygene_params"]["prediction"] == said
        expected = model.get_latent_representation(new, precision=used)
        np.testing.assert_array_equal(table.obsm["X_rankbygene"], expected)
        assert np.array_equal(expected, latent) == (used == "32-true")
    assert table.uns["rankbygene_params"]["training"]["precision"] == "32-true"
    arguments = {"shapes_key": next(iter(new.shapes)), "out": tmp_path / "out.zarr"}
    model.predict_slide(new, shard=(0, 2), **arguments)
    if not (tmp_path / "out.zarr").exists():
        with pytest.raises(InputValueError, match="another"):
            model.predict_slide(new, precision="bf16-mixed", **arguments)


def test_training_says_its_precision(
    make_slides: Callable[..., Any], fit_tiny: Callable[..., Any], caplog: Any
) -> None:
    slides = make_slides(2)
    train = {"batch_size": 16, "accelerator": "cpu", "enable_progress_bar": False}
    kwargs = {"train_kwargs": train, "model_kwargs": {"tile_px": 32, "fine_tune": "none"}}
    with caplog.at_level(logging.INFO, "rankbygene"):
        model = fit_tiny(slides, **kwargs)
        assert "training in precision '32-true' on cpu" in caplog.text
        assert model.training_params["precision"] == "32-true"
        kept = model._features_precision
        model.train(1, precision="bf16-mixed", **train)
        assert "training in precision 'bf16-mixed' on cpu" in caplog.text
    assert model.training_params["precision"] == "bf16-mixed"
    # Features kept at one precision are not taken for those of the other.
    assert kept == "32-true"
    assert model._features_precision == "bf16-mixed"
    half = fit_tiny(slides, precision="bf16-mixed", **kwargs)
    assert slides[0]["table"].uns["rankbygene_params"]["training"]["precision"] == "bf16-mixed"
    assert half.training_params["accelerator"] == "cpu"


@pytest.mark.parametrize("precision", ["bf16", "float32", 32, None, True])
def test_unknown_precisions_are_refused_at_the_door(
    precision: Any, model: Any, slides: Any, tmp_path: Path
) -> None:
    for ask in (
        lambda: model.get_latent_representation(precision=precision),
        lambda: model.get_latent_representation(modality="gene", precision=precision),
        lambda: model.get_normalized_expression(precision=precision),
        lambda: model.annotate(precision=precision),
        lambda: model.predict_slide(slides[0], precision=precision, out=tmp_path / "out.zarr"),
        lambda: rbg.tl.evaluate(model, slides, precision=precision),
        lambda: rbg.model.fit(slides, train_kwargs={"precision": precision}),
        lambda: rbg.tl.cross_validate(slides, train_kwargs={"precision": precision}),
    ):
        with pytest.raises((InputValueError, InputTypeError), match="precision"):
            ask()


def test_two_precisions_for_one_training_are_refused(slides: Any) -> None:
    for ask in (rbg.model.fit, rbg.tl.cross_validate):
        with pytest.raises(InputValueError, match="pass one of them"):
            ask(slides, precision="32-true", train_kwargs={"precision": "bf16-mixed"})
