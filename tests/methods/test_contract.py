"""What every method has to do, those that others register included; a new one needs no line here."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rankbygene as rbg
from rankbygene.errors import InputValueError
from rankbygene.methods._registry import class_of, names

TRAIN: dict[str, Any] = {
    "max_epochs": 1,
    "batch_size": 16,
    "accelerator": "cpu",
    "precision": "32-true",
    "enable_progress_bar": False,
}
METHODS = names()


def make(method: str, slides: Any, **settings: Any) -> Any:
    cls = class_of(method)
    cls.setup_spatialdata(slides)
    tiny: dict[str, Any] = {"backbone": "test_resnet", "pretrained": False, "genes": 12}
    return cls(slides, **{**tiny, "seed": 1, "tile_px": 32, **settings})


def trained(method: str, slides: Any, batch_size: int = 16, **settings: Any) -> Any:
    model = make(method, slides, **settings)
    model.train(**{**TRAIN, "batch_size": batch_size})
    return model


def results(model: Any, sdata: Any = None) -> list[Any]:
    """Everything that a model gives, of all slides."""
    found: list[Any] = []
    if "latent" in model.gives:
        found.append(model.get_latent_representation(sdata))
    if "expression" in model.gives:
        found.append(model.get_normalized_expression(sdata))
    parts = [one.values() if isinstance(one, dict) else [one] for one in found]
    return [np.asarray(part) for group in parts for part in group]


def assert_same(first: list[Any], second: list[Any]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module", params=METHODS)
def fitted(request: pytest.FixtureRequest, make_slides: Callable[..., list[Any]]) -> Any:
    return trained(request.param, make_slides())


def test_a_method_is_found_by_its_name_everywhere(fitted: Any) -> None:
    cls = type(fitted)
    assert getattr(rbg.model, cls.__name__) is cls
    assert fitted.method in names()
    assert rbg.tl.ModelMethod(fitted.method).method == fitted.method
    signature = inspect.signature(cls)
    assert {"backbone", "genes", "tile_um", "seed"} <= set(signature.parameters)
    for name in signature.parameters:
        assert name in (cls.__doc__ or ""), name
    assert {"batch_size", "plan_kwargs"} <= set(inspect.signature(cls.train).parameters)


def test_results_are_finite_numbers_of_every_spot(fitted: Any) -> None:
    assert fitted.gives
    n_spots = sum(frame.n_obs for frame in fitted.frames.values())
    for values in results(fitted):
        assert np.isfinite(values).all()
    assert sum(map(len, results(fitted))) == n_spots * len(fitted.gives & {"latent", "expression"})


def test_what_a_method_lacks_is_refused_by_name(fitted: Any) -> None:
    asked = {
        "latent": fitted.get_latent_representation,
        "gene": lambda: fitted.get_latent_representation(modality="gene"),
        "expression": fitted.get_normalized_expression,
    }
    for what, ask in asked.items():
        if what in fitted.gives:
            ask()
        else:
            with pytest.raises(InputValueError, match=f"{type(fitted).__name__} has no"):
                ask()


def test_annotated_tables_hold_what_the_getters_give(
    fitted: Any, make_slides: Callable[..., list[Any]]
) -> None:
    slides = make_slides()
    before = [slide.tables["table"].copy() for slide in slides]
    type(fitted).setup_spatialdata(slides)
    fitted.annotate(slides, key_added="mine")
    for old, slide in zip(before, slides, strict=True):
        table = slide.tables["table"]
        assert ("X_mine" in table.obsm) == ("latent" in fitted.gives)
        assert ("mine" in table.layers) == ("expression" in fitted.gives)
        np.testing.assert_array_equal(np.asarray(old.X.todense()), np.asarray(table.X.todense()))
        assert set(table.uns) - set(old.uns) == {"mine_params"}
        assert not set(table.obs["mine_split"]) <= {"test"}  # they were trained on


def test_a_saved_model_is_the_same(
    fitted: Any, make_slides: Callable[..., list[Any]], tmp_path: Path
) -> None:
    fitted.save(tmp_path / "model")
    loaded = rbg.model.load(tmp_path / "model")
    assert type(loaded) is type(fitted)
    state, other = fitted.module.state_dict(), loaded.module.state_dict()
    assert all(torch.equal(state[name], other[name]) for name in {*state, *other})
    own, again = fitted._method_state(), loaded._method_state()
    assert own.keys() == again.keys()
    assert all(torch.equal(own[name], again[name]) for name in own)
    slides = make_slides()
    type(fitted).setup_spatialdata(slides)
    assert_same(results(fitted, slides), results(loaded, slides))


def test_an_image_alone_is_predicted_whole_and_in_parts(
    fitted: Any,
    make_slides: Callable[..., list[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import spatialdata

    slide = make_slides()[0]
    slide.tables.clear()
    fitted.predict_slide(slide, table_key="whole")
    monkeypatch.setattr("rankbygene.base.spots._stream.PART_SIZE", 7)
    fitted.predict_slide(slide, out=tmp_path / "parts.zarr", table_key="whole")
    whole, parts = slide.tables["whole"], spatialdata.read_zarr(tmp_path / "parts.zarr")["whole"]
    parts = parts[list(map(str, whole.obs_names))]
    if "expression" in fitted.gives:
        np.testing.assert_allclose(np.asarray(parts.X), np.asarray(whole.X), rtol=1e-5, atol=1e-6)
    if "latent" in fitted.gives:
        key = f"X_{fitted.method}"
        np.testing.assert_allclose(parts.obsm[key], whole.obsm[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_repeats_a_training_and_leaves_the_users_randomness(
    method: str, make_slides: Callable[..., list[Any]]
) -> None:
    slides = make_slides()
    before = torch.get_rng_state()
    first = results(trained(method, slides))
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(first, results(trained(method, slides)))


@pytest.mark.parametrize("method", METHODS)
def test_counts_that_are_held_out_change_nothing(
    method: str, make_slides: Callable[..., list[Any]]
) -> None:
    from scipy import sparse

    slides = make_slides()
    genes = list(map(str, slides[0].tables["table"].var_names[:12]))
    held_out = ["slide_2"]
    names_of = {f"slide_{i}": slide for i, slide in enumerate(slides)}
    how: dict[str, Any] = {"genes": genes, "validation_slides": held_out}
    first = results(trained(method, names_of, **how))
    other = make_slides()
    table = other[2].tables["table"]
    counts = np.asarray(table.X.todense())
    table.X = sparse.csr_matrix(counts[::-1] * 2)
    changed = {f"slide_{i}": slide for i, slide in enumerate(other)}
    assert_same(first, results(trained(method, changed, **how)))


@pytest.mark.parametrize("method", METHODS)
def test_one_slide_kept_features_and_genes_that_a_slide_lacks(
    method: str, make_slides: Callable[..., list[Any]]
) -> None:
    slides = make_slides()
    with pytest.warns(UserWarning, match="not independent"):
        alone = trained(method, slides[0], batch_size=8, fine_tune="none")
    assert all(np.isfinite(values).all() for values in results(alone))
    table = slides[1].tables["table"]
    genes = list(map(str, slides[0].tables["table"].var_names[:12]))
    slides[1].tables["table"] = table[:, list(table.var_names)[1:]].copy()
    model = trained(method, slides, genes=genes)
    assert all(np.isfinite(values).all() for values in results(model))
