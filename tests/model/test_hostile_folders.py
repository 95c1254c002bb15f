"""Model folders that were damaged, or made by a stranger."""

from __future__ import annotations

import copy
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import rankbygene as rbg
from rankbygene.base._folder import _checksum, _sha256
from rankbygene.errors import InputValueError, RankByGeneError

ODD: list[Any] = [
    None, True, -1, 0, 1e300, 10**12, "", "x", "x" * 100_000, [], [None], {}, {"a": {"b": []}}, [[1]],
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def slide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cohort = rbg.datasets.synthetic_cohort(n_patients=20)
    bags = {name: rbg.data.ArrayBag(name, np.ones((4, 3), np.float32)) for name in cohort.slides}
    model = rbg.model.SlideClassifier(bags, cohort.clinical, n_hidden=8)
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    path = tmp_path_factory.mktemp("saved") / "slide_model"
    model.save(path)
    return path


@pytest.fixture
def changed(folder: Path, tmp_path: Path) -> Path:
    return copied(folder, tmp_path / "changed")


def copied(folder: Path, target: Path) -> Path:
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def read(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "model.json").read_text())
    return record


def sealed(folder: Path, record: dict[str, Any]) -> None:
    """Write a record as someone would who knows how the checksums are made."""
    record = {key: value for key, value in record.items() if key != "checksum"}
    record["sha256"] = {name: _sha256(folder / name) for name in record["sha256"]}
    text = json.dumps({**record, "checksum": _checksum(record)})
    (folder / "model.json").write_text(text)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of all values of a record, three of each list."""
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value[:3]):
            yield from leaves(item, (*path, i))


def replaced(record: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    record = copy.deepcopy(record)
    place = record
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return record


@pytest.mark.parametrize("kind", ["folder", "slide_folder"])
def test_whatever_stands_in_a_record_gives_a_model_or_an_error_of_ours(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    original = request.getfixturevalue(kind)
    target = copied(original, tmp_path / "m")
    record = read(original)
    places = [path for path in leaves(record) if path and path[0] not in ("checksum", "sha256")]
    rng = np.random.default_rng(0)
    n_refused = n = 0
    for path in places:
        # Every value of every place takes minutes; three of each are drawn, and one is left out.
        for value in [..., *(ODD[i] for i in rng.choice(len(ODD), 3, replace=False))]:
            sealed(target, replaced(record, path, value))
            n += 1
            try:
                rbg.model.load(target)
            except RankByGeneError as error:
                assert str(target) in str(error) or "backbone" in str(error)
                n_refused += 1
    assert n > 150
    assert n_refused > 0.6 * n


def test_a_flipped_bit_is_noticed_wherever_it_is(folder: Path, changed: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("model.json", "history.csv", "model.safetensors"):
        data = (folder / name).read_bytes()
        before = read(folder)
        for place in rng.integers(0, len(data), 25).tolist():
            flipped = bytearray(data)
            flipped[place] ^= 1 << int(rng.integers(0, 7))
            (changed / name).write_bytes(bytes(flipped))
            try:
                rbg.model.load(changed)
            except InputValueError:
                continue
            # Blanks between the entries of JSON mean nothing.
            assert name == "model.json"
            assert read(changed) == before
        (changed / name).write_bytes(data)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(changed: Path, value: float) -> None:
    tensors = load_file(changed / "model.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[name].view(-1)[0] = value
    save_file(tensors, changed / "model.safetensors")
    sealed(changed, read(changed))
    with pytest.raises(InputValueError, match="NaN or infinite values in 1 tensors"):
        rbg.model.load(changed)


def test_tensors_of_another_network_are_refused(changed: Path) -> None:
    tensors = load_file(changed / "model.safetensors")
    save_file({name: torch.zeros(3) for name in tensors}, changed / "model.safetensors")
    sealed(changed, read(changed))
    with pytest.raises(InputValueError, match=r"do not fit|describes no model"):
        rbg.model.load(changed)


def test_files_that_are_no_files_do_not_hang(changed: Path) -> None:
    for name in ("model.safetensors", "model.json"):
        (changed / name).unlink()
        os.mkfifo(changed / name)
        with pytest.raises(InputValueError, match=r"has no|not a saved model"):
            rbg.model.load(changed)


def test_deep_large_and_odd_json_is_refused(changed: Path) -> None:
    for text in ("[" * 100_000, '{"a": NaN}', "[1]", '{"format": 1e999}', "\ufeff{}", ""):
        (changed / "model.json").write_text(text, encoding="utf-8")
        with pytest.raises(InputValueError, match=r"model\.json"):
            rbg.model.load(changed)
    with (changed / "model.json").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(InputValueError, match=r"1,073,741,824 bytes"):
        rbg.model.load(changed)


def test_models_of_the_first_format_still_load(model: Any, changed: Path, slides: Any) -> None:
    record = read(changed)
    del record["checksum"], record["fine_tuning"]
    record |= {"format": 1, "sha256": record["sha256"]["model.safetensors"]}
    (changed / "model.json").write_text(json.dumps(record, indent=1))
    loaded = rbg.model.load(changed)
    before = model.get_normalized_expression(slides[0])
    after = loaded.get_normalized_expression(slides[0])
    np.testing.assert_array_equal(np.asarray(before), np.asarray(after))
    record["sha256"] = "0" * 64
    (changed / "model.json").write_text(json.dumps(record))
    with pytest.raises(InputValueError, match="damaged or truncated"):
        rbg.model.load(changed)


def test_others_may_read_what_the_mask_allows(model: Any, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        model.save(tmp_path / "m")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "m").iterdir()} == {0o644}
