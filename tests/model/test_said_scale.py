"""A scale that was said of some images holds for these, and for no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from spatialdata import deepcopy
from spatialdata.transformations import remove_transformation

import rankbygene as rbg
from rankbygene.errors import InputValueError

SAID = 1.0


def without_scale(slide: Any) -> Any:
    """Give a copy that says nowhere how large a pixel is."""
    bare = deepcopy(slide)
    for element in (*bare.images.values(), *bare.shapes.values()):
        remove_transformation(element, "um")
    bare["table"].obs = bare["table"].obs.drop(columns=["array_row", "array_col"])
    return bare


@pytest.fixture(scope="module")
def own(make_slides: Callable[..., list[Any]]) -> list[Any]:
    return [without_scale(slide) for slide in make_slides(2, um_per_px=SAID)]


@pytest.fixture(scope="module")
def new(make_slides: Callable[..., list[Any]]) -> Any:
    """A slide at another scale."""
    return make_slides(1, um_per_px=2.0, seed=8)[0]


@pytest.fixture(scope="module")
def model(own: list[Any], fit_tiny: Callable[..., Any]) -> Any:
    return fit_tiny(dict(zip("ab", own, strict=True)), um_per_px=SAID, max_epochs=1)


def used(model: Any, slide: Any) -> tuple[float, str]:
    """Give the scale that an annotation says it was made at: source, and um per pixel of the level."""
    model.annotate({"s": slide})
    told = slide["table"].uns["rankbygene_params"]["slides"]["s"]
    return told["um_source"], told["um_per_px"]


ASK: list[Callable[[Any, Any], Any]] = [
    lambda model, slide: model.annotate(slide),
    lambda model, slide: model.get_latent_representation(slide),
    lambda model, slide: model.get_latent_representation(slide, "gene"),
    lambda model, slide: model.get_normalized_expression(slide),
    lambda model, slide: rbg.tl.evaluate(model, slide, baselines=["mean"]),
]


@pytest.mark.parametrize("ask", ASK, ids=["annotate", "image", "gene", "expression", "evaluate"])
def test_the_scale_of_another_image_is_not_assumed(
    model: Any, new: Any, ask: Callable[[Any, Any], Any]
) -> None:
    bare = without_scale(new)
    before = list(bare["table"].obsm), dict(bare["table"].uns)
    with pytest.raises(InputValueError, match=r"(?s)unknown.*um_per_px=1.*setup_spatialdata"):
        ask(model, bare)
    assert (list(bare["table"].obsm), dict(bare["table"].uns)) == before
    with pytest.raises(InputValueError, match=r"(?s)'n'.*unknown.*setup_spatialdata"):
        ask(model, {"a": deepcopy(bare), "n": bare})
    rbg.model.RankByGene.setup_spatialdata(bare, um_per_px=2.0)
    ask(model, bare)


def test_what_was_said_of_several_objects_together_holds_for_each(own: list[Any], new: Any) -> None:
    *train, last = [deepcopy(slide) for slide in (*own, without_scale(new))]
    rbg.model.RankByGene.setup_spatialdata([*train, last], um_per_px=SAID)
    model = rbg.model.RankByGene(
        train, backbone="test_resnet", pretrained=False, genes=5, tile_px=32, validation_size=0.0
    )
    assert {frame.um_source for frame in model._frames_of(last, counts=False).values()} == {
        "um_per_px=1"
    }


def test_an_object_that_tells_its_scale_is_read_at_it(model: Any, new: Any) -> None:
    source, um_per_px = used(model, deepcopy(new))
    assert source.startswith("coordinate system 'um'")
    assert um_per_px == pytest.approx(2.0)


def test_the_model_s_own_slides_keep_the_scale_that_was_said(
    model: Any, own: list[Any], tmp_path: Path
) -> None:
    again = deepcopy(own[0])
    assert used(model, again)[0] == "um_per_px=1"
    assert set(again["table"].obs["rankbygene_split"].dropna()) <= {"train", "validation"}
    model.save(tmp_path / "model")
    loaded = rbg.model.load(tmp_path / "model", [deepcopy(slide) for slide in own])
    assert {frame.um_source for frame in loaded.frames.values()} == {"um_per_px=1"}


def test_data_given_to_load_need_a_scale_of_their_own(model: Any, new: Any, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    with pytest.raises(InputValueError, match=r"(?s)unknown.*setup_spatialdata"):
        rbg.model.load(tmp_path / "model", without_scale(new))
    (frame,) = rbg.model.load(tmp_path / "model", deepcopy(new)).frames.values()
    assert frame.um_source.startswith("coordinate system 'um'")


def test_a_scale_that_was_said_against_metadata_holds_for_the_own_slides_only(
    make_slides: Callable[..., list[Any]], fit_tiny: Callable[..., Any], new: Any
) -> None:
    slides = make_slides(2, um_per_px=SAID)
    model = fit_tiny(slides, um_per_px=1.25, max_epochs=1)
    assert used(model, deepcopy(slides[1]))[0] == "um_per_px=1.25"
    assert used(model, deepcopy(new))[0].startswith("coordinate system 'um'")
