"""Which weights a training leaves: the best, the last good ones, or those of an unbroken run."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import rankbygene as rbg
from rankbygene.base._devices import check_devices
from rankbygene.data.batches._orders import ShuffledBatches
from rankbygene.errors import InputTypeError, InputValueError, NotTrainedError, TrainingError

TRAIN: dict[str, Any] = {
    "batch_size": 16,
    "accelerator": "cpu",
    "precision": "32-true",
    "enable_progress_bar": False,
}
MODELS = {"rankbygene": rbg.model.RankByGene, "nh2st": rbg.model.NH2ST}


def make(slides: list[Any], method: str = "rankbygene", **settings: Any) -> Any:
    cls = MODELS[method]
    cls.setup_spatialdata(slides)
    tiny: dict[str, Any] = {"backbone": "test_resnet", "pretrained": False, "genes": 12}
    return cls(slides, **tiny, seed=1, tile_px=32, **settings)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


def assert_equal(model: Any, expected: dict[str, torch.Tensor]) -> None:
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def is_usable(model: Any) -> bool:
    predicted = model.get_normalized_expression()
    return all(np.isfinite(table.to_numpy()).all() for table in predicted.values())


# ---- the epoch that is kept ------------------------------------------------------------------------


class Recorder(pl.Callback):
    """Copies the weights of every epoch."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.states.append({n: t.clone() for n, t in pl_module.module.state_dict().items()})


@pytest.mark.parametrize("monitor", ["validation_pearson", "validation_expression"])
def test_the_epoch_that_is_best_by_its_own_measure_is_kept(monitor: str, slides: list[Any]) -> None:
    model, recorder = make(slides), Recorder()
    model.train(max_epochs=5, monitor=monitor, callbacks=[recorder], **TRAIN)
    scores = model.history[monitor][monitor].astype(float).to_numpy()
    best = scores.argmax() if monitor == "validation_pearson" else scores.argmin()
    assert_equal(model, recorder.states[best])


def test_a_score_that_rises_does_not_stop_a_training_early(slides: list[Any]) -> None:
    class Rising(pl.Callback):
        def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
            score = torch.tensor(0.1 * (trainer.current_epoch + 1))
            pl_module.running_pearson.compute = lambda: score

    model = make(slides)
    how = {"early_stopping": True, "early_stopping_patience": 1, "monitor": "validation_pearson"}
    model.train(max_epochs=4, callbacks=[Rising()], **how, **TRAIN)
    assert len(model.history["validation_pearson"]) == 4


@pytest.mark.parametrize(
    ("settings", "train", "match"),
    [
        ({}, {"monitor": "validation_pearsn"}, "Did you mean 'validation_pearson'"),
        ({}, {"monitor": "train_loss"}, "validation_loss"),
        ({"method": "nh2st"}, {"monitor": "validation_contrast"}, r"validation_query \(min\)"),
        ({"validation_size": 0.0}, {"early_stopping": True}, "nothing is held out"),
        ({"validation_size": 0.0}, {"monitor": "validation_pearson"}, "nothing is held out"),
        ({}, {"early_stopping_monitor": "validation_loss"}, "use monitor"),
    ],
)
def test_monitors_that_cannot_be_had_are_refused_before_anything(
    settings: dict[str, Any], train: dict[str, Any], match: str, slides: list[Any]
) -> None:
    model = make(slides, **settings)
    with pytest.raises(InputValueError, match=match):
        model.train(max_epochs=1, **train, **TRAIN)
    assert model._tiles is None


# ---- what is not finite ----------------------------------------------------------------------------


class Breaking(pl.Callback):
    """Spoils weights, or raises, at the end of an epoch's training."""

    def __init__(self, epoch: int, error: type[BaseException] | None = None) -> None:
        self.epoch, self.error = epoch, error

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch and self.error is None:
            with torch.no_grad():
                next(pl_module.module.student.parameters()).fill_(math.nan)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch and self.error is not None:
            raise self.error


def test_the_best_epoch_before_a_divergence_can_be_used(slides: list[Any], tmp_path: Path) -> None:
    model, recorder = make(slides, head="frozen", statistics=True), Recorder()
    with pytest.raises(TrainingError, match="not finite after epoch 2"):
        model.train(max_epochs=4, callbacks=[recorder, Breaking(2)], **TRAIN)
    assert model.is_trained_
    assert is_usable(model)
    assert np.isfinite(model.validation_pearson).any()
    assert "broke off" in model.training_params["broken_off"]
    scores = model.history["validation_loss"]["validation_loss"].astype(float)[:2]
    best = recorder.states[int(scores.argmin())]
    assert torch.equal(
        model.module.gene_encoder.state_dict()[
            first := next(iter(model.module.gene_encoder.state_dict()))
        ],
        best[f"gene_encoder.{first}"],
    )
    model.save(tmp_path / "model")
    assert is_usable(rbg.model.load(tmp_path / "model", slides))


class Overflowing(pl.Callback):
    """Spoils weights with the last step of an epoch, whose loss is finite."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.is_last_batch:
            with torch.no_grad():
                next(pl_module.module.student.parameters()).mul_(math.inf)


@pytest.mark.parametrize("validation_size", [0.0, 0.2])
def test_a_last_step_that_diverges_leaves_an_untrained_model(
    validation_size: float, slides: list[Any]
) -> None:
    model = make(slides, validation_size=validation_size)
    before = weights(model)
    with pytest.raises(TrainingError, match="not finite"):
        model.train(max_epochs=1, callbacks=[Overflowing()], **TRAIN)
    assert not model.is_trained_
    assert_equal(model, before)
    with pytest.raises(NotTrainedError):
        model.get_latent_representation()
    model.train(max_epochs=1, **TRAIN)
    assert is_usable(model)


def test_a_good_model_survives_a_second_training_that_fails(slides: list[Any]) -> None:
    model = make(slides, statistics=True)
    model.train(max_epochs=2, **TRAIN)
    before, score = weights(model), model.validation_pearson
    history = {name: table.copy() for name, table in model.history.items()}
    with pytest.raises(TrainingError):
        model.train(max_epochs=3, callbacks=[Breaking(1)], **TRAIN)
    assert model.is_trained_
    assert_equal(model, before)
    assert model.validation_pearson.equals(score)
    assert all(history[name].equals(table) for name, table in model.history.items())
    assert "what it was before" in model.training_params["broken_off"]


def test_an_interrupted_training_keeps_its_best_epoch_and_later_interruptions_work(
    slides: list[Any],
) -> None:
    model = make(slides, head="frozen")
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        model.train(max_epochs=4, callbacks=[Breaking(1, KeyboardInterrupt)], **TRAIN)
    assert signal.getsignal(signal.SIGINT) is handler
    assert model.is_trained_
    assert is_usable(model)
    assert np.isfinite(model.validation_pearson).any()


def test_results_that_are_no_numbers_are_not_given(slides: list[Any], model: Any) -> None:
    from copy import copy, deepcopy

    broken = copy(model)
    broken.module = deepcopy(model.module)
    with torch.no_grad():
        broken.module.teacher.predictor.bias[3] = math.inf
    with pytest.raises(TrainingError, match=r"40 of 480 values of expression"):
        broken.get_normalized_expression()
    with pytest.raises(TrainingError, match="not finite"):
        broken.annotate(key_added="broken")
    assert not any("broken_params" in sdata.tables["table"].uns for sdata in slides)


# ---- resumption --------------------------------------------------------------------------------------


def checkpoints(folder: Path) -> list[ModelCheckpoint]:
    """Write after every step, validation and epoch."""
    every: dict[str, Any] = {"save_top_k": -1}
    return [
        ModelCheckpoint(folder, filename="step{step}", every_n_train_steps=1, **every),
        ModelCheckpoint(folder, filename="val{epoch}", save_on_train_epoch_end=False, **every),
        ModelCheckpoint(folder, filename="end{epoch}", save_on_train_epoch_end=True, **every),
    ]


RESUMED = [
    ("rankbygene", {}, {}, "validation_distillation"),
    ("rankbygene", {"fine_tune": "none"}, {"ema_every": "epoch"}, "validation_distillation"),
    ("rankbygene", {"validation_size": 0.0}, {"chunk_size": 5}, "validation_loss"),
    ("nh2st", {"dropout": 0.2}, {}, "validation_query"),
    ("nh2st", {"fine_tune": "none"}, {}, "validation_query"),
]


@pytest.mark.parametrize(("method", "settings", "plan", "monitor"), RESUMED)
def test_a_resumed_training_is_the_unbroken_one(
    method: str,
    settings: dict[str, Any],
    plan: dict[str, Any],
    monitor: str,
    slides: list[Any],
    tmp_path: Path,
) -> None:
    how = {"max_epochs": 3, "monitor": monitor, "plan_kwargs": plan, **TRAIN, "batch_size": 32}
    whole = make(slides, method, **settings)
    whole.train(**how, callbacks=checkpoints(tmp_path))
    steps = whole.trainer.global_step
    # Within an epoch, after its last step, after its validation, after its end.
    names = [f"step={steps // 3 - 1}", f"step={steps // 3}", "val*epoch=1", "end*epoch=1"]
    found = [next(iter(sorted(tmp_path.glob(f"*{name}.ckpt"))), None) for name in names]
    chosen = [file for file in found if file is not None]
    assert len(chosen) >= 3
    for file in chosen:
        resumed = make(slides, method, **settings)
        torch.manual_seed(9)
        resumed.train(**how, ckpt_path=file)
        assert_equal(resumed, weights(whole))
        assert set(resumed.history) == set(whole.history)
        for name, table in whole.history.items():
            pd.testing.assert_frame_equal(resumed.history[name], table)
        assert resumed.validation_pearson.equals(whole.validation_pearson)


def test_a_training_that_is_interrupted_twice_is_the_unbroken_one(
    slides: list[Any], tmp_path: Path
) -> None:
    class Stop(pl.Callback):
        def __init__(self, step: int) -> None:
            self.step = step

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == self.step:
                trainer.save_checkpoint(tmp_path / f"{self.step}.ckpt")
                raise KeyboardInterrupt

    how = {"max_epochs": 3, "monitor": "validation_distillation", **TRAIN}
    whole = make(slides)
    whole.train(**how)
    last: dict[str, Any] = {}
    for step in (3, 8):
        with pytest.raises(KeyboardInterrupt):
            make(slides).train(**how, **last, callbacks=[Stop(step)])
        last = {"ckpt_path": tmp_path / f"{step}.ckpt"}
    resumed = make(slides)
    resumed.train(**how, **last)
    assert_equal(resumed, weights(whole))
    for name, table in whole.history.items():
        pd.testing.assert_frame_equal(resumed.history[name], table)


def test_windows_go_on_within_an_epoch() -> None:
    def batches(**start: int) -> list[list[int]]:
        read: list[Any] = []
        order = ShuffledBatches(np.arange(90), 8, 3, False, 24, read.append)
        order.set_epoch(2)
        if start:
            order.start_at(2, start["at"])
        return [list(batch) for batch in order]

    whole = batches()
    assert all(batches(at=place) == whole[place:] for place in range(1, 12))


@pytest.fixture(scope="module")
def checkpoint(slides: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    make(slides).train(max_epochs=1, callbacks=[ModelCheckpoint(folder, "last")], **TRAIN)
    return folder / "last.ckpt"


def test_checkpoints_that_cannot_be_gone_on_from_are_refused(
    checkpoint: Path, slides: list[Any], make_slides: Callable[..., list[Any]], tmp_path: Path
) -> None:
    torch.save({"state_dict": {}, "code": threading.Lock}, tmp_path / "hostile.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "weights.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(checkpoint.read_bytes()[:5000])
    for path, match in [
        ("hostile.ckpt", "not opened"),
        ("cut.ckpt", "not opened"),
        ("weights.ckpt", "lacks loops"),
        ("absent.ckpt", "is not a file"),
    ]:
        with pytest.raises(InputValueError, match=match) as caught:
            make(slides).train(max_epochs=2, ckpt_path=tmp_path / path, **TRAIN)
        assert "weights_only=False" not in str(caught.value)
        assert caught.value.__cause__ is None
    with pytest.raises(InputTypeError, match="path of a checkpoint"):
        make(slides).train(max_epochs=2, ckpt_path=3, **TRAIN)
    with pytest.raises(InputValueError, match="batch_size: 16, now 8"):
        make(slides).train(max_epochs=2, ckpt_path=checkpoint, **TRAIN | {"batch_size": 8})
    with pytest.raises(InputValueError, match="another network"):
        make(slides, n_latent=7).train(max_epochs=2, ckpt_path=checkpoint, **TRAIN)
    with pytest.raises(InputValueError, match="other data"):
        make(make_slides(seed=8)).train(max_epochs=2, ckpt_path=checkpoint, **TRAIN)


# ---- devices -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("devices", [99999, 0, -3, "x", [0, 0], [0]])
def test_devices_that_are_not_here_are_refused(devices: Any, slides: list[Any]) -> None:
    with pytest.raises(InputValueError, match="this machine has"):
        make(slides).train(max_epochs=1, **TRAIN | {"devices": devices})
    with pytest.raises(InputValueError, match="this machine has"):
        check_devices("cpu", True)
    with pytest.raises(InputValueError, match="This machine has"):
        check_devices("qpu", 1)


@pytest.mark.parametrize("devices", [1, "auto"])
def test_tasks_of_a_cluster_do_not_matter_to_one_device(
    devices: Any, slides: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = {"NTASKS": "4", "NTASKS_PER_NODE": "4", "JOB_NAME": "train", "NNODES": "2", "PROCID": "3"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    model = make(slides)
    model.train(max_epochs=1, **TRAIN | {"devices": devices})
    assert model.is_trained_
    assert model.trainer.is_global_zero
