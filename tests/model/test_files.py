from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import rankbygene as rbg


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model"
    model.save(path)
    return path


def copy(folder: Path, target: Path) -> Path:
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_a_loaded_model_gives_the_same_bits(model: Any, slides: Any, folder: Path) -> None:
    loaded = rbg.model.RankByGene.load(folder, slides)
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, loaded.module.state_dict()[name]), name
    for before, after in (
        (model.get_latent_representation(slides), loaded.get_latent_representation(slides)),
        (
            model.get_latent_representation(slides, "gene"),
            loaded.get_latent_representation(slides, "gene"),
        ),
    ):
        for slide in before:
            np.testing.assert_array_equal(before[slide], after[slide])
    assert loaded.genes == model.genes
    pd.testing.assert_series_equal(loaded.validation_pearson, model.validation_pearson)
    pd.testing.assert_series_equal(loaded.split_labels, model.split_labels)
    for name, frame in model.history.items():
        np.testing.assert_allclose(loaded.history[name].to_numpy(float), frame.to_numpy(float))


def test_the_folder_holds_tensors_and_text_only(model: Any, folder: Path) -> None:
    assert {file.name for file in folder.iterdir()} == {
        "model.safetensors",
        "model.json",
        "history.csv",
    }
    tensors = sum(t.numel() * t.element_size() for t in model.module.state_dict().values())
    assert sum(file.stat().st_size for file in folder.iterdir()) < tensors + 200_000
    record = json.loads((folder / "model.json").read_text())
    assert record["class"] == "RankByGene"
    assert record["scores"]["validation_pearson"] == pytest.approx(model.validation_pearson.mean())


def test_a_loaded_model_knows_its_training_spots(slides: Any, folder: Path) -> None:
    loaded = rbg.model.RankByGene.load(folder)
    expected = [sdata["table"].obs["rankbygene_split"].copy() for sdata in slides]
    loaded.annotate(slides)
    for sdata, labels in zip(slides, expected, strict=True):
        pd.testing.assert_series_equal(sdata["table"].obs["rankbygene_split"], labels)


def test_training_goes_on_after_loading(make_slides: Any, fit_tiny: Any, tmp_path: Path) -> None:
    slides = make_slides(2)
    fit_tiny(slides).save(tmp_path / "m")
    loaded = rbg.model.RankByGene.load(tmp_path / "m", slides)
    loaded.train(
        max_epochs=1,
        batch_size=16,
        accelerator="cpu",
        precision="32-true",
        enable_progress_bar=False,
    )
    assert len(loaded.history["train_loss"]) == 2


def test_an_existing_folder_is_not_replaced_unasked(model: Any, tmp_path: Path) -> None:
    target = tmp_path / "m"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        model.save(target)
    assert (target / "notes.txt").read_text() == "mine"
    model.save(target, overwrite=True)
    assert (target / "model.json").exists()


def test_a_crash_while_saving_leaves_the_old_model(
    model: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    target = tmp_path / "m"
    model.save(target)
    before = {file.name: file.read_bytes() for file in target.iterdir()}

    def full_disk(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        model.save(target, overwrite=True)
    assert {file.name: file.read_bytes() for file in target.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_damaged_and_foreign_folders_are_named(folder: Path, tmp_path: Path) -> None:
    load = rbg.model.RankByGene.load
    with pytest.raises(ValueError, match=r"no model\.json"):
        load(tmp_path)
    truncated = copy(folder, tmp_path / "truncated")
    data = (truncated / "model.safetensors").read_bytes()
    (truncated / "model.safetensors").write_bytes(data[:-100])
    with pytest.raises(ValueError, match="damaged or truncated"):
        load(truncated)
    garbled = copy(folder, tmp_path / "garbled")
    (garbled / "model.json").write_text("{")
    with pytest.raises(ValueError, match="damaged or foreign"):
        load(garbled)
    for key, value, match in (("class", "Other", "holds a Other"), ("format", 99, "format 99")):
        changed = copy(folder, tmp_path / key)
        record = json.loads((changed / "model.json").read_text()) | {key: value}
        (changed / "model.json").write_text(json.dumps(record))
        with pytest.raises(ValueError, match=match):
            load(changed)


def test_data_without_the_panel_cannot_be_attached(
    make_slides: Any, model: Any, folder: Path
) -> None:
    (sdata,) = make_slides(1)
    table = sdata["table"]
    sdata.tables["table"] = table[:, ~table.var_names.isin(model.genes[:6])].copy()
    with pytest.raises(ValueError, match="6 of 12 genes.*without data"):
        rbg.model.RankByGene.load(folder, sdata)


def test_folders_of_one_id_per_spot_are_still_read(
    model: Any, slides: Any, folder: Path, tmp_path: Path
) -> None:
    """Ids of slide, name and place, which know the spots by the same names only."""
    from safetensors.torch import load_file, save_file

    texts = [
        f"{frame.slide}|{name}|{x:.2f}|{y:.2f}"
        for frame in model.frames.values()
        for name, (x, y) in zip(frame.obs_names, frame.centers, strict=True)
    ]
    ids = pd.util.hash_array(np.array(texts, object), categorize=False)
    former = copy(folder, tmp_path / "former")
    tensors = load_file(former / "model.safetensors")
    tensors["split.ids"] = torch.from_numpy(ids.view(np.int64).copy())
    save_file(tensors, former / "model.safetensors")
    record = json.loads((former / "model.json").read_text())
    digest = hashlib.sha256((former / "model.safetensors").read_bytes()).hexdigest()
    (former / "model.json").write_text(json.dumps(record | {"format": 1, "sha256": digest}))
    rbg.model.load(former).save(tmp_path / "again")
    for place in (former, tmp_path / "again"):
        loaded = rbg.model.load(place, slides)
        for name, labels in model.split.labels.items():
            np.testing.assert_array_equal(loaded.split.labels[name], labels)
        with pytest.raises(ValueError, match="were used in training"):
            rbg.tl.evaluate(loaded, slides[0], baselines=())


def test_splits_are_attached_whatever_slides_are_called(
    model: Any, slides: Any, folder: Path
) -> None:
    loaded = rbg.model.load(folder, {"x": slides[2], "y": slides[0], "z": slides[1]})
    own = list(model.split.labels.values())
    for name, labels in zip("xyz", (own[2], own[0], own[1]), strict=True):
        np.testing.assert_array_equal(loaded.split.labels[name], labels)
