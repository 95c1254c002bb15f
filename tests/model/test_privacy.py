"""What is saved names no folder of the machine, and needs no network to be loaded."""

from __future__ import annotations

import getpass
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
from safetensors.torch import save_file

import rankbygene as rbg
from rankbygene.errors import InputValueError

TINY = {"genes": 8, "tile_px": 32, "seed": 0}
QUICK = {
    "max_epochs": 1,
    "batch_size": 16,
    "accelerator": "cpu",
    "precision": "32-true",
    "enable_progress_bar": False,
}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "a folder of mine" / "encoder.safetensors"
    path.parent.mkdir()
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), path)
    return path


def texts(folder: Path) -> str:
    return "".join(
        file.read_bytes().decode("latin-1") for file in folder.rglob("*") if file.is_file()
    )


def test_no_output_names_a_folder_of_the_machine(
    make_slides: Any, weights: Path, tmp_path: Path
) -> None:
    slides = make_slides(2)
    rbg.model.RankByGene.setup_spatialdata(slides)
    model = rbg.model.RankByGene(slides, backbone="test_resnet", weights=weights, **TINY)
    model.train(**QUICK)
    model.annotate()
    out = tmp_path / "out"
    model.save(out / "model")
    slides[0].write(out / "slide.zarr")
    result = rbg.tl.cross_validate(
        slides,
        "ridge",
        baselines=("mean",),
        groups="slide",
        allow_leaks=["patient"],
        references=(),
        backbone="test_resnet",
        weights=weights,
        tile_px=32,
        genes=8,
    )
    result.save(out / "result")
    found = texts(out)
    private = [str(tmp_path), weights.parent.name, str(Path.home()) + os.sep]
    # A short name of a machine may stand in any bytes.
    private += [platform.node()] if len(platform.node()) > 7 else []
    assert [text for text in private if text in found] == []
    assert f"/{getpass.getuser()}/" not in found
    assert json.loads((out / "model" / "model.json").read_text())["backbone"]["weights"] == (
        "encoder.safetensors"
    )


def test_a_loaded_model_asks_for_the_file_it_started_from(
    make_slides: Any, weights: Path, tmp_path: Path
) -> None:
    *slides, unseen = make_slides(3)
    rbg.model.RankByGene.setup_spatialdata(slides)
    model = rbg.model.RankByGene(slides, backbone="test_resnet", weights=weights, **TINY)
    model.train(**QUICK)
    direct = rbg.tl.evaluate(model, unseen)
    model.save(tmp_path / "m")
    loaded = rbg.model.load(tmp_path / "m", slides)
    with pytest.raises(InputValueError, match=r"encoder\.safetensors.*pass weights="):
        rbg.tl.evaluate(loaded, unseen)
    again = rbg.tl.evaluate(loaded, unseen, weights=weights)
    assert again.summary.equals(direct.summary)


def test_an_encoder_from_the_hub_is_loaded_without_it(tmp_path: Path) -> None:
    """A hub that is a folder here, and gone when the model is loaded."""
    cache = tmp_path / "hub"
    snapshot = cache / "models--someone--encoder" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (cache / "models--someone--encoder" / "refs").mkdir()
    (cache / "models--someone--encoder" / "refs" / "main").write_text("abc")
    network = timm.create_model("test_resnet", num_classes=0)
    config = {
        "architecture": "test_resnet",
        "num_classes": 0,
        "model_args": {"global_pool": "max"},
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "input_size": [3, 64, 64]},
    }
    (snapshot / "config.json").write_text(json.dumps(config))
    save_file(network.state_dict(), snapshot / "model.safetensors")
    make = f"""
import rankbygene as rbg
slides = rbg.datasets.synthetic(n_slides=1, n_spots=60, n_genes=20, um_per_px=4.0)
rbg.model.RankByGene.setup_spatialdata(slides)
model = rbg.model.RankByGene(slides, backbone="hf-hub:someone/encoder", genes=8, tile_px=32, seed=0)
model.train(**{QUICK!r})
model.save({str(tmp_path / "m")!r})
print(float(model.get_normalized_expression().to_numpy().sum()))
"""
    load = f"""
import socket
import rankbygene as rbg
def refuse(*args, **kwargs):
    raise AssertionError("the network was asked")
socket.socket.connect = refuse
slides = rbg.datasets.synthetic(n_slides=1, n_spots=60, n_genes=20, um_per_px=4.0)
rbg.model.RankByGene.setup_spatialdata(slides)
model = rbg.model.load({str(tmp_path / "m")!r}, slides)
assert model.backbone.mean == [0.1, 0.2, 0.3] or model.backbone.mean == (0.1, 0.2, 0.3)
print(float(model.get_normalized_expression().to_numpy().sum()))
"""
    sums = []
    for code, folder in ((make, cache), (load, tmp_path / "empty")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "HF_HUB_CACHE": str(folder), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        sums.append(done.stdout.split()[-1])
    assert sums[0] == sums[1]
