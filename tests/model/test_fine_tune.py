from __future__ import annotations

import builtins
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rankbygene as rbg
from rankbygene.nn import orientations

CHOICES: dict[str, dict[str, Any]] = {
    "last_n": {"backbone": "test_resnet", "fine_tune": "last_n", "n_last": 2},
    "lora": {"backbone": "test_vit", "fine_tune": "lora", "lora_kwargs": {"rank": 2}},
    "none": {"backbone": "test_resnet", "fine_tune": "none"},
}
TRAIN: dict[str, Any] = {
    "batch_size": 16,
    "accelerator": "cpu",
    "precision": "32-true",
    "enable_progress_bar": False,
}


def make(slides: Any, method: str = "rankbygene", **settings: Any) -> Any:
    cls = {"rankbygene": rbg.model.RankByGene, "nh2st": rbg.model.NH2ST}[method]
    cls.setup_spatialdata(slides)
    return cls(slides, **({"pretrained": False, "genes": 12, "tile_px": 32, "seed": 1} | settings))


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def is_trained(choice: str, name: str) -> bool:
    """What each choice promises, by the names of the networks' parts."""
    inner = name.removeprefix("network.")
    return {
        "last_n": inner.startswith(("layer3.", "layer4.")),
        "lora": "lora_" in inner,
        "none": False,
    }[choice]


@pytest.mark.parametrize("method", ["rankbygene", "nh2st"])
@pytest.mark.parametrize("choice", list(CHOICES))
def test_training_changes_what_was_chosen_and_is_kept(
    method: str, choice: str, make_slides: Callable[..., Any], tmp_path: Path
) -> None:
    slides = make_slides(2)
    model = make(slides, method, **CHOICES[choice])
    encoder = model.module.encoders[0]
    before = state(encoder)
    seen: list[torch.Tensor] = []

    class Groups(rbg.train.FiniteLoss):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            (optimizer,) = trainer.optimizers
            seen.extend(p for group in optimizer.param_groups for p in group["params"])

    model.train(max_epochs=2, callbacks=[Groups()], **TRAIN)
    after = state(encoder)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert all(is_trained(choice, name) for name in changed)
    assert bool(changed) is (choice != "none")
    assert seen
    assert all(p.requires_grad for p in seen)
    n_optimised = sum(p.numel() for p in encoder.parameters() if any(p is one for one in seen))
    assert n_optimised == sum(p.numel() for p in encoder.parameters() if p.requires_grad)

    model.save(tmp_path / "m")
    loaded = rbg.model.load(tmp_path / "m", slides)
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, loaded.module.state_dict()[name]), name
    for own, other in zip(
        model.get_normalized_expression().values(),
        loaded.get_normalized_expression().values(),
        strict=True,
    ):
        np.testing.assert_array_equal(own, other)
    trained = [name for name, p in loaded.module.named_parameters() if p.requires_grad]
    assert trained == [name for name, p in model.module.named_parameters() if p.requires_grad]


@pytest.mark.parametrize("choice", list(CHOICES))
def test_the_teacher_has_no_frozen_weights_of_its_own(
    choice: str, slides: Any, tmp_path: Path
) -> None:
    model = make(slides, **CHOICES[choice])
    student, teacher = model.module.encoders
    for ours, theirs in zip(student.parameters(), teacher.parameters(), strict=True):
        assert (ours is theirs) is not ours.requires_grad
    model.save(tmp_path / "m")
    stored = (tmp_path / "m" / "model.safetensors").stat().st_size
    unique = {id(t): t.nbytes for t in model.module.state_dict(keep_vars=True).values()}
    assert stored < sum(unique.values()) + 100_000


def test_frozen_statistics_stay_and_others_move(slides: Any) -> None:
    model = make(slides, **CHOICES["last_n"])
    norms = {
        name: part.training
        for name, part in model.module.train().encoders[0].network.named_modules()
        if isinstance(part, torch.nn.BatchNorm2d)
    }
    assert any(norms.values())
    assert all(training == is_trained("last_n", name) for name, training in norms.items())


@pytest.mark.parametrize("choice", ["full", "lora"])
def test_a_second_model_starts_from_the_module_that_was_handed_in(
    choice: Any, make_slides: Callable[..., Any], tmp_path: Path
) -> None:
    """Training in place made the second model start from the first one's weights."""
    slides = make_slides(2)
    own = rbg.nn.build_backbone("test_vit", pretrained=False, tile_px=32)[0].network
    before, names = state(own), [name for name, _ in own.named_modules()]
    models = [make(slides, backbone=own, fine_tune=choice) for _ in range(2)]
    for model in models:
        model.train(max_epochs=1, **TRAIN)
    assert [name for name, _ in own.named_modules()] == names
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    assert all(weight.requires_grad for weight in own.parameters())
    first, second = (model.module.state_dict() for model in models)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    models[0].save(tmp_path / "m")
    rbg.model.load(tmp_path / "m", backbone=own)
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())


@pytest.mark.parametrize("method", ["rankbygene", "nh2st"])
def test_kept_features_are_those_of_the_tiles(
    method: str, make_slides: Callable[..., Any], monkeypatch: Any
) -> None:
    model = make(make_slides(2), method, **CHOICES["none"])
    calls = []
    encode = type(model.module).encode_orientations

    def counting(self: Any, images: torch.Tensor) -> Any:
        calls.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(type(model.module), "encode_orientations", counting)
    for _ in range(2):
        model.train(max_epochs=2, **TRAIN)
    assert sum(calls) == len(model.tiles) + 1  # one tile tells how much room is needed
    rows = np.array([70, 3, 41])
    kept = model._features[rows]["features"]
    images = torch.from_numpy(model.tiles[rows])
    encoder = model.module.eval().encoders[0]
    with torch.no_grad():
        views = [encoder(model.module.normalize_images(view)) for view in orientations(images)]
    torch.testing.assert_close(kept, torch.stack(views, 1), rtol=1e-5, atol=1e-6)
    model.release()
    assert model._features is None


def test_heads_of_a_frozen_encoder_learn_within_seconds(make_slides: Callable[..., Any]) -> None:
    model = make(make_slides(3, n_spots=120), **CHOICES["none"])
    begin = time.process_time()
    rates = {"lr": 1e-2, "gene_lr": 1e-2}
    model.train(max_epochs=30, plan_kwargs=rates, **{**TRAIN, "batch_size": 64})
    assert time.process_time() - begin < 20
    losses = model.history["train_contrast"].to_numpy(float).ravel()
    assert losses[-1] < 0.8 * losses[0]


def test_several_widths_and_attention_train_on_kept_features(
    make_slides: Callable[..., Any],
) -> None:
    slides = make_slides(2)
    wide = make(slides, context_um=[200.0], **CHOICES["none"])
    wide.train(max_epochs=1, **TRAIN)
    post = make(slides, "nh2st", contrast_on="post", **CHOICES["none"])
    post.train(max_epochs=1, **TRAIN)
    assert {"features", "places"} == set(post._features.tensors)
    released = make(slides, **CHOICES["none"])
    released.train(max_epochs=1, plan_kwargs=rbg.train.RELEASED, **TRAIN)
    for model in (wide, post, released):
        assert np.isfinite(model.history["train_loss"].to_numpy(float)).all()


def test_lora_without_peft_is_named(
    model: Any, slides: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    make(slides, **CHOICES["lora"]).save(tmp_path / "m")
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "peft":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.delitem(sys.modules, "peft", raising=False)
    with pytest.raises(RuntimeError, match=r"rankbygene\[lora\]"):
        rbg.model.load(tmp_path / "m")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"fine_tune": "all"}, "'full', 'last_n'"),
        ({"fine_tune": "last_n"}, "n_last=2"),
        ({"fine_tune": "none", "n_last": 2}, "n_last=2"),
        ({"fine_tune": "last_n", "n_last": 9}, "has 4 blocks"),
        ({"fine_tune": "lora"}, "no(ne|t).*last_n|has none"),
        ({"lora_kwargs": {"rank": 2}}, "fine_tune='lora'"),
        ({"fine_tune": "lora", "lora_kwargs": {"r": 2}}, "'rank'"),
        ({"backbone": torch.nn.Flatten(), "fine_tune": "last_n", "n_last": 1}, "timm network"),
    ],
)
def test_what_does_not_go_together_is_refused(
    slides: Any, settings: dict[str, Any], text: str
) -> None:
    with pytest.raises((ValueError, KeyError), match=text):
        make(slides, **({"backbone": "test_resnet"} | settings))


@pytest.mark.parametrize("option", ["compile", "gradient_checkpointing"])
def test_options_of_an_encoder_that_is_not_run_are_refused(slides: Any, option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} would have no effect"):
        make(slides, **CHOICES["none"]).train(**{option: True}, **TRAIN)


def test_released_weights_need_a_teacher_of_their_own(slides: Any, tmp_path: Path) -> None:
    model = make(slides, head="frozen", **CHOICES["none"])
    with pytest.raises(ValueError, match="fine_tune='full'"):
        model.load_released(tmp_path / "released.ckpt")


def test_a_batch_for_a_gpu_is_not_sought_on_a_cpu(slides: Any) -> None:
    with pytest.raises(ValueError, match="memory of a GPU"):
        make(slides, backbone="test_resnet").train(**{**TRAIN, "batch_size": "auto"})
