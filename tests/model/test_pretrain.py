from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from spatialdata import SpatialData

import rankbygene as rbg
from rankbygene.base._random import forked_rng
from rankbygene.data.splits._row_groups import RowGroups
from rankbygene.errors import (
    InputKeyError,
    InputTypeError,
    InputValueError,
    OutputExistsError,
    TrainingError,
)
from rankbygene.metrics import pearson
from rankbygene.tl.cross_validation._regressors import GroupRidge

TINY: dict[str, Any] = {
    "tile_px": 32,
    "tile_um": 64.0,
    "batch_size": 32,
    "lr": 2e-3,
    "max_epochs": 2,
    "accelerator": "cpu",
    "precision": "32-true",
    "enable_progress_bar": False,
}


def pretrain(sdatas: Any, backbone: Any = "test_resnet", **kwargs: Any) -> Any:
    return rbg.model.pretrain(sdatas, backbone, **(TINY | kwargs))


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def warm(slides: list[Any]) -> Any:
    return pretrain(slides[:2])


def test_the_file_is_what_a_backbone_and_a_model_start_from(
    warm: Any, slides: list[Any], tmp_path: Path
) -> None:
    path = tmp_path / "deep" / "warm.safetensors"
    warm.save(path)
    network, spec = rbg.nn.build_backbone("test_resnet", weights=path, tile_px=32)
    assert same(network.network, warm.network)
    assert not any(name.startswith("projection") for name in warm.network.state_dict())
    rbg.model.RankByGene.setup_spatialdata(slides)
    arguments: dict[str, Any] = {"genes": 5, "tile_px": 32, "tile_um": 64.0}
    model = rbg.model.RankByGene(slides, backbone="test_resnet", weights=path, **arguments)
    assert model.backbone.weights_hash == spec.weights_hash != warm.spec.weights_hash
    assert same(model.module.teacher.backbone.network, warm.network)
    direct = rbg.model.RankByGene(slides, backbone=warm.network, **arguments)
    assert same(direct.module.teacher.backbone.network, warm.network)
    assert (direct.backbone.mean, direct.backbone.std) == (spec.mean, spec.std)
    assert [file.name for file in path.parent.iterdir()] == ["warm.safetensors"]


def test_the_file_says_where_it_comes_from(warm: Any, tmp_path: Path) -> None:
    warm.save(tmp_path / "warm.safetensors")
    with safe_open(tmp_path / "warm.safetensors", "pt") as file:
        told = json.loads(file.metadata()["rankbygene"])
    assert told == json.loads(json.dumps(warm.params))
    assert (told["backbone"], told["tile_um"], told["tile_px"]) == ("test_resnet", 64.0, 32)
    assert told["n_tiles"].keys() == {"0", "1"}


def test_counts_are_never_touched(slides: list[Any], warm: Any) -> None:
    bare = [SpatialData(images=dict(sdata.images)) for sdata in slides[:2]]
    assert same(pretrain(bare).network, warm.network)
    poisoned = rbg.datasets.synthetic(n_slides=2, n_spots=40, n_genes=30, seed=3)
    for sdata in poisoned:
        sdata["table"].X = np.full(sdata["table"].shape, np.nan, np.float32)
    images = [SpatialData(images=dict(sdata.images)) for sdata in poisoned]
    keys = [set(sdata.shapes) | set(sdata.tables) for sdata in poisoned]
    assert same(pretrain(poisoned, max_epochs=1).network, pretrain(images, max_epochs=1).network)
    assert [set(sdata.shapes) | set(sdata.tables) for sdata in poisoned] == keys


def encode(slide: Any, weights: Path | None) -> np.ndarray:
    """Features at the spots of a slide, by the encoder before or after pretraining."""
    with forked_rng(0):
        network, spec = rbg.nn.build_backbone(
            "test_resnet", pretrained=False, weights=weights, tile_px=32
        )
    (frame,) = rbg.data.resolve_slides(slide).values()
    tiles = rbg.data.TileReader(frame, tile_um=64.0, tile_px=32).read()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    with torch.inference_mode():
        images = rbg.nn.normalize_pixels(torch.from_numpy(tiles), mean, std)
        return network.eval()(images).numpy()


@pytest.mark.slow
def test_features_tell_more_of_expression_on_a_slide_that_was_not_seen(tmp_path: Path) -> None:
    *train, unseen = rbg.datasets.synthetic(
        n_slides=3, n_patients=1, n_spots=100, n_genes=30, noise=0, seed=1
    )
    # After fewer epochs the outcome hangs on rounding.
    warm = pretrain(train, step_um=56.0, max_epochs=20)
    warm.save(tmp_path / "warm.safetensors")
    losses = warm.history["train_loss"].iloc[:, 0].to_numpy(float)
    assert losses[0] < np.log(2 * 32 - 1) + 0.5
    assert losses[-1] < losses[0] - 0.5
    driven = unseen["table"].var["image_driven"].to_numpy()
    truth = [sdata["table"].layers["truth"][:, driven] for sdata in (*train, unseen)]
    scores = {}
    for name, weights in (("cold", None), ("warm", tmp_path / "warm.safetensors")):
        features = [encode(sdata, weights) for sdata in (*train, unseen)]
        slide_of = np.repeat(["a", "b"], [len(values) for values in truth[:2]])
        groups = RowGroups.of_labels(slide_of, "slide")
        ridge = GroupRidge().fit(np.concatenate(features[:2]), np.concatenate(truth[:2]), groups)
        scores[name] = pearson(truth[2], ridge.predict(features[2])).mean()
    assert scores["warm"] > scores["cold"] + 0.03, scores


def test_the_seed_decides_and_the_global_state_stays(slides: list[Any], warm: Any) -> None:
    torch.manual_seed(99)
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    again = pretrain(slides[:2])
    assert torch.equal(torch.get_rng_state(), torch_before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)
    assert same(again.network, warm.network)
    assert again.history["train_loss"].equals(warm.history["train_loss"])
    assert not same(pretrain(slides[:2], seed=1).network, warm.network)


def test_it_goes_on_from_a_file(slides: list[Any], warm: Any, tmp_path: Path) -> None:
    warm.save(tmp_path / "warm.safetensors")
    more = pretrain(slides[:2], weights=tmp_path / "warm.safetensors", max_epochs=1)
    assert float(more.history["train_loss"].iloc[0, 0]) < float(
        warm.history["train_loss"].iloc[0, 0]
    )


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"batch_size": 10_000}, InputValueError, r"10000 and there are \d+ tiles.*step_um"),
        ({"batch_size": 1}, InputValueError, "at least 2"),
        ({"temperature": 0.0}, InputValueError, "temperature is 0.0; a number above 0"),
        ({"crop": (0.0, 1.0)}, InputValueError, "crop"),
        ({"tile_px": 512}, InputValueError, "(?s)slide '0'.*slide '1'"),
        ({"image_key": {"7": "x"}}, InputKeyError, r"image_key names slides \['7'\].*'0', '1'"),
        ({"um_per_px": {"b": 1.0}}, InputKeyError, "um_per_px"),
        ({"image_key": "absent"}, InputKeyError, "no image 'absent'"),
        ({"lr": 1e14, "max_epochs": 3}, TrainingError, "not finite at step.*lr"),
    ],
)
def test_what_cannot_be_done_is_named(
    slides: list[Any], settings: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        pretrain(slides[:2], **settings)


def test_other_objects_and_names_are_refused(slides: list[Any], warm: Any, tmp_path: Path) -> None:
    with pytest.raises(InputTypeError, match="SpatialData"):
        pretrain([slides[0]["table"]])
    with pytest.raises(InputValueError, match="safetensors"):
        warm.save(tmp_path / "warm.pt")
    warm.save(tmp_path / "warm.safetensors")
    with pytest.raises(OutputExistsError, match="overwrite"):
        warm.save(tmp_path / "warm.safetensors")
    warm.save(tmp_path / "warm.safetensors", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["warm.safetensors"]


def test_a_resumed_training_is_the_unbroken_one(slides: list[Any], tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    every = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=1)
    whole = pretrain(slides[:1], batch_size=16, callbacks=[every])
    for file in tmp_path.iterdir():
        resumed = pretrain(slides[:1], batch_size=16, ckpt_path=file)
        assert same(resumed.network, whole.network)
        assert resumed.history["train_loss"].equals(whole.history["train_loss"])
