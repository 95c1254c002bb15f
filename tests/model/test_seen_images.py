"""Models say which slides their encoder was pretrained on, of which it saw images and no counts."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spatialdata as sd
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import Ridge
from spatialdata.models import Image2DModel
from spatialdata.transformations import get_transformation

import rankbygene as rbg
from rankbygene.errors import BackboneError

TILES: dict[str, Any] = {"tile_px": 32, "tile_um": 64.0}
QUIET: dict[str, Any] = {
    "max_epochs": 1, "batch_size": 16, "accelerator": "cpu", "precision": "32-true",
    "enable_progress_bar": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def four() -> list[Any]:
    made = rbg.datasets.synthetic(4, n_patients=4, n_spots=40, n_genes=20, seed=5, um_per_px=2.0)
    rbg.model.RankByGene.setup_spatialdata(made)
    return made


@pytest.fixture(scope="module")
def warm(four: list[Any]) -> Any:
    """An encoder that was trained on the third slide."""
    return rbg.model.pretrain(
        {"third": four[2]}, "test_resnet", **TILES, **QUIET | {"batch_size": 8}
    )


@pytest.fixture(scope="module")
def model(four: list[Any], warm: Any) -> Any:
    """A model on that encoder, of the first two slides."""
    made = rbg.model.RankByGene(
        four[:2], backbone=warm.network, genes=5, validation_size=0.5, **TILES
    )
    made.train(**QUIET)
    return made


def evaluate(model: Any, slides: Any) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = rbg.tl.evaluate(model, slides, baselines=["mean"])
    return result, [str(w.message) for w in caught if "transductive" in str(w.message)]


def repacked(slide: Any, *, multiscale: bool) -> Any:
    """Give the slide anew, under another name, its image stored with other levels."""
    (key,) = slide.images
    image = slide.images[key]
    first = image if not hasattr(image, "children") else next(iter(image["scale0"].values()))
    (systems,) = [get_transformation(first, get_all=True)]
    parsed = Image2DModel.parse(
        np.asarray(first.transpose("c", "y", "x").data),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations=systems,
        scale_factors=[2] if multiscale else None,
    )
    (region,) = slide.shapes
    made = sd.SpatialData(
        images={key: parsed}, shapes={region: slide[region]}, tables={"table": slide["table"]}
    )
    rbg.model.RankByGene.setup_spatialdata(made)
    return made


def test_scores_on_slides_whose_images_were_seen_say_so(model: Any, four: list[Any]) -> None:
    result, texts = evaluate(model, {"renamed": four[2], "new": four[3]})
    assert result.images_seen == ("renamed",)
    assert len(texts) == 1
    assert "'renamed'" in texts[0]
    assert "'new'" not in texts[0]
    result, texts = evaluate(model, four[3])
    assert (result.images_seen, texts) == ((), [])


@pytest.mark.parametrize("multiscale", [False, True])
def test_the_image_is_known_however_it_is_stored(
    model: Any, four: list[Any], multiscale: bool
) -> None:
    result, _ = evaluate(model, {"copy": repacked(four[2], multiscale=multiscale)})
    assert result.images_seen == ("copy",)


def test_annotated_slides_say_so_too(model: Any, four: list[Any]) -> None:
    slides = {"third": copy.deepcopy(four[2]), "fourth": copy.deepcopy(four[3])}
    rbg.model.RankByGene.setup_spatialdata(slides)
    model.annotate(slides)
    told = {
        name: slide["table"].uns["rankbygene_params"]["slides"][name]["image_seen_by_encoder"]
        for name, slide in slides.items()
    }
    assert told == {"third": True, "fourth": False}


def test_what_was_seen_is_saved_with_encoder_and_model(
    warm: Any, model: Any, four: list[Any], tmp_path: Path
) -> None:
    model.save(tmp_path / "model")
    loaded = rbg.model.RankByGene.load(tmp_path / "model", four[:2], backbone=warm.network)
    assert loaded.backbone.images_seen == model.backbone.images_seen != {}
    assert evaluate(loaded, four[2])[0].images_seen == (next(iter(four[2].shapes)),)
    warm.save(tmp_path / "warm.safetensors")
    _, spec = rbg.nn.build_backbone("test_resnet", weights=tmp_path / "warm.safetensors", **_PX)
    assert spec.images_seen == model.backbone.images_seen
    assert list(spec.images_seen) == ["third"]
    # Also inside a network of the user's own, and through a second pretraining.
    own = torch.nn.Sequential(copy.deepcopy(warm.network), torch.nn.Flatten())
    assert rbg.nn.build_backbone(own, **_PX)[1].images_seen == spec.images_seen
    twice = rbg.model.pretrain(
        {"third": four[3]}, "test_resnet", weights=tmp_path / "warm.safetensors", **TILES,
        **QUIET | {"batch_size": 8},
    )  # fmt: skip
    seen = rbg.nn.build_backbone(twice.network, **_PX)[1].images_seen["third"]
    assert set(spec.images_seen["third"]) < set(seen)
    cold = rbg.nn.build_backbone("test_resnet", pretrained=False, **_PX)[1]
    assert cold.images_seen == {}


def test_a_record_that_cannot_be_read_is_refused(warm: Any, tmp_path: Path) -> None:
    warm.save(tmp_path / "warm.safetensors")
    tensors = load_file(tmp_path / "warm.safetensors")
    for text in (
        "{",
        "[]",
        json.dumps({"images_seen": {"a": "b"}}),
        json.dumps({"images_seen": 3}),
    ):
        save_file(tensors, tmp_path / "odd.safetensors", {"rankbygene": text})
        with pytest.raises(BackboneError, match=r"odd\.safetensors.*slides"):
            rbg.nn.build_backbone("test_resnet", weights=tmp_path / "odd.safetensors", **_PX)


def test_cross_validation_names_the_slides(four: list[Any], warm: Any, tmp_path: Path) -> None:
    warm.save(tmp_path / "warm.safetensors")
    arguments: dict[str, Any] = {
        "groups": "slide", "baselines": ["mean"], "references": [], "genes": 5, **TILES,
        "backbone": "test_resnet", "train_kwargs": QUIET | {"enable_progress_bar": False},
    }  # fmt: skip
    slides = dict(zip("abcd", four, strict=True))
    method = Ridge(1.0)
    with pytest.warns(UserWarning, match=r"'c'.*transductive"):
        result = rbg.tl.cross_validate(
            slides, {"r": method}, weights=tmp_path / "warm.safetensors", **arguments
        )
    assert result.provenance["images_seen"] == ["c"]
    own = rbg.tl.ModelMethod(model_kwargs={"backbone": warm.network, "validation_size": 0.0})
    with pytest.warns(UserWarning, match=r"'c'.*transductive"):
        result = rbg.tl.cross_validate(
            slides, {"m": own}, pretrained=False, only_folds=[0], **arguments
        )
    assert result.provenance["images_seen"] == ["c"]
    result = rbg.tl.cross_validate(slides, {"r": method}, pretrained=False, **arguments)
    assert result.provenance["images_seen"] == []


_PX: dict[str, Any] = {"tile_px": 32}
