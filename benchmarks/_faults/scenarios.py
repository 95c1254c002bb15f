"""Writes of the package on tiny data, each with what may be read of it at any instant.

A scenario has a folder to begin from, work that is done in it, and a way to read what is there. The
folder may hold the output of earlier work, which is to be replaced.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import rankbygene as rbg
from _faults.children import warm_up
from _faults.inputs import contents, dense
from rankbygene.errors import OutputFailedError

CPU: dict[str, Any] = {
    "accelerator": "cpu", "precision": "32-true", "enable_progress_bar": False, "batch_size": 16,
}  # fmt: skip
FIT: dict[str, Any] = {
    "backbone": "test_resnet", "pretrained": False, "genes": 4, "max_epochs": 1,
    "model_kwargs": {"tile_px": 32, "validation_size": 0.0}, "train_kwargs": CPU,
}  # fmt: skip
LAYOUT = "slide_0_spots"
# So coarse that images are small; the command line cuts tiles of another size.
UM_PER_PX, UM_PER_PX_OF_COMMAND = 3.0, 1.0


@dataclass(frozen=True)
class Scenario:
    """One kind of write.

    Attributes
    ----------
    name
        What it is.
    pristine
        Folder to begin from.
    work
        Done in a copy of it.
    read
        Gives what can be read there: ``own``, what the user brought, which never changes, and
        ``result``, empty where there is none. Raises where something cannot be read.
    mend
        What is done, before the work is done again, by somebody who only wants to read.
    """

    name: str
    pristine: Path
    work: Callable[[Path], Any]
    read: Callable[[Path], dict[str, str]]
    mend: Callable[[Path], Any] | None = None
    expensive: bool = field(default=False)


def make_scenarios(folder: Path, is_wanted: Callable[[Scenario], bool]) -> list[Scenario]:
    """Make the folders that scenarios begin from, in a child, and give those that are wanted."""
    warm_up(lambda: _make_folders(folder / "folders", is_wanted), folder)
    return [scenario for scenario in _scenarios(folder / "folders") if is_wanted(scenario)]


def _make_folders(folder: Path, is_wanted: Callable[[Scenario], bool]) -> None:
    warnings.simplefilter("ignore")
    folder.mkdir()
    store, (older, _) = _slide(folder), _models(folder)
    _slide(folder, "fine.zarr", UM_PER_PX_OF_COMMAND)
    _begun(folder, "empty", ())
    _begun(folder, "results", (store,))
    _annotate(_begun(folder, "again", (store,)) / store.name, older)
    rbg.model.load(older).save(_begun(folder, "saved", ()) / "model")
    _predict(older, store, _begun(folder, "predicted", ()) / "out.zarr")
    judged = _begun(folder, "judged", ())
    _judge(store, judged / "store", ("mean",)).save(judged / "result")
    shutil.rmtree(judged / "store")
    _write_bag(store, _begun(folder, "bag", ()) / "bag.h5", 8)
    other = rbg.datasets.synthetic(1, 36, 8, seed=9, um_per_px=UM_PER_PX)[0]
    rbg.io.write_sdata(other, _begun(folder, "copy", ()) / "copy.zarr")
    # So that all is imported that scenarios import.
    for scenario in filter(is_wanted, _scenarios(folder)):
        once = folder / "once"
        shutil.copytree(scenario.pristine, once)
        scenario.work(once)
        scenario.read(once)
        shutil.rmtree(once)


def _scenarios(folder: Path) -> list[Scenario]:
    empty, results, again, saved, predicted, judged, bag, copy = (
        folder / name
        for name in ("empty", "results", "again", "saved", "predicted", "judged", "bag", "copy")
    )
    store, newer = folder / "slide.zarr", folder / "model_1"
    name = store.name
    return [
        Scenario(
            "first results", results, lambda f: _annotate(f / name, newer),
            lambda f: read_store(f / name), lambda f: rbg.io.repair_store(f / name, apply=True),
        ),
        Scenario(
            "results over results", again, lambda f: _annotate(f / name, newer),
            lambda f: read_store(f / name), lambda f: rbg.io.repair_store(f / name, apply=True),
        ),
        Scenario(
            "save", empty, lambda f: rbg.model.load(newer).save(f / "model", overwrite=True),
            lambda f: read_model(f / "model"),
        ),
        Scenario(
            "save over a model", saved,
            lambda f: rbg.model.load(newer).save(f / "model", overwrite=True),
            lambda f: read_model(f / "model"),
        ),
        Scenario(
            "predict, resumed", empty, lambda f: _predict(newer, store, f / "out.zarr"),
            lambda f: read_store(f / "out.zarr"),
        ),
        Scenario(
            "predict over a store, resumed", predicted,
            lambda f: _predict(newer, store, f / "out.zarr"), lambda f: read_store(f / "out.zarr"),
        ),
        Scenario("tile cache", empty, lambda f: _cut(store, f / "cache"), lambda f: _no_reading()),
        Scenario(
            "cross-validation", judged,
            lambda f: _judge(store, f / "store", ("mean", "ridge")).save(
                f / "result", overwrite=True
            ),
            lambda f: read_result(f / "result"),
        ),
        Scenario(
            "fit, annotate, write", results, lambda f: _fit(f / name),
            lambda f: read_store(f / name), lambda f: rbg.io.repair_store(f / name, apply=True),
            expensive=True,
        ),
        Scenario(
            "command line: fit", saved, lambda f: _command_fit(folder / "fine.zarr", f),
            lambda f: read_model(f / "model") | _prefixed(read_store(f / "out.zarr")),
            expensive=True,
        ),
        Scenario(
            "command line: predict", predicted, lambda f: _command_predict(newer, store, f),
            lambda f: read_store(f / "out.zarr"),
        ),
        Scenario(
            "bag", bag, lambda f: _write_bag(store, f / "bag.h5", 20),
            lambda f: {"result": _digest(_bytes(rbg.io.H5Bag(f / "bag.h5").read()))},
        ),
        Scenario(
            "store", copy,
            lambda f: rbg.io.write_sdata(_read(store), f / "copy.zarr", overwrite=True),
            lambda f: {"result": contents(_read(f / "copy.zarr"))},
        ),
    ]  # fmt: skip


def _begun(folder: Path, name: str, holds: tuple[Path, ...]) -> Path:
    made = folder / name.replace(" ", "_")
    (made / "tmp").mkdir(parents=True)
    for path in holds:
        shutil.copytree(path, made / path.name)
    return made


def _slide(folder: Path, name: str = "slide.zarr", um_per_px: float = UM_PER_PX) -> Path:
    slide = rbg.datasets.synthetic(1, 36, 8, seed=1, um_per_px=um_per_px)[0]
    path = folder / name
    rbg.io.write_sdata(slide, path)
    return path


def _models(folder: Path) -> tuple[Path, Path]:
    paths = []
    for seed in (0, 1):
        slide = rbg.datasets.synthetic(1, 36, 8, seed=1, um_per_px=UM_PER_PX)[0]
        paths.append(folder / f"model_{seed}")
        rbg.model.fit(slide, seed=seed, **FIT).save(paths[-1])
    return paths[0], paths[1]


# ---- work ------------------------------------------------------------------------------------------


def _read(path: Path) -> Any:
    from spatialdata import read_zarr

    return read_zarr(path)


def _annotate(store: Path, model: Path) -> None:
    sdata = _read(store)
    rbg.model.load(model).annotate(sdata)
    rbg.io.write_results(sdata)


def _fit(store: Path) -> None:
    sdata = _read(store)
    rbg.model.fit(sdata, seed=1, **FIT)
    rbg.io.write_results(sdata)


def _predict(model: Path, store: Path, out: Path) -> None:
    from rankbygene.base.spots import _stream

    _stream.PART_SIZE = 9
    rbg.model.load(model).predict_slide(_read(store), shapes_key=LAYOUT, out=out, overwrite=True)


def _cut(store: Path, cache: Path) -> str:
    frames = rbg.data.resolve_slides(_read(store))
    bank = rbg.data.TileBank.build(frames, tile_um=112.0, tile_px=32, cache_dir=cache)
    return _digest(np.ascontiguousarray(bank[np.arange(36)]).tobytes())


def _write_bag(store: Path, path: Path, n_features: int) -> None:
    sdata = _read(store)
    table = sdata["table"]
    table.obsm["X_features"] = np.ones((table.n_obs, n_features), np.float32)
    rbg.io.write_bag_h5(
        sdata, path, table_key="table", feature_key="X_features", patch_size=30, overwrite=True
    )


def _no_reading() -> dict[str, str]:
    return {"result": ""}


def _judge(store: Path, folds: Path, methods: tuple[str, ...]) -> Any:
    return rbg.tl.cross_validate(
        _read(store), {name: name for name in methods}, groups="block", n_splits=2, genes=4,
        baselines=(), references=(), allow_leaks=["patient", "window"], tile_um=112.0, tile_px=32,
        backbone="test_resnet", pretrained=False, store=folds,
    )  # fmt: skip


def _command(*words: Any) -> None:
    from rankbygene.cli import app

    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = app([str(word) for word in words], standalone_mode=False)
    if not status:
        return
    text = said.getvalue().strip().splitlines()[-1]
    # Only a full disk is said to have let the command fail while running.
    kind = OutputFailedError if status == 1 and "Free some space" in text else SystemExit
    raise kind(text)


def _command_fit(store: Path, folder: Path) -> None:
    _command(
        "fit", store, "--out", folder / "out.zarr", "--model-dir", folder / "model", "--genes", 4,
        "--backbone", "test_resnet", "--no-pretrained", "--max-epochs", 1, "--batch-size", 4,
        "--accelerator", "cpu", "--seed", 1, "--overwrite",
    )  # fmt: skip


def _command_predict(model: Path, store: Path, folder: Path) -> None:
    _command(
        "predict", model, store, "--out", folder / "out.zarr", "--shapes-key", LAYOUT,
        "--table-only", "--overwrite",
    )  # fmt: skip


# ---- reading ---------------------------------------------------------------------------------------


def read_store(path: Path) -> dict[str, str]:
    """Tell a store by what the user brought and by results, none of which are half there."""
    if not path.exists():
        return {"own": "", "result": ""}
    sdata = _read(path)
    parts = []
    for name, table in sorted(sdata.tables.items()):
        keys = {
            "obsm": [key for key in table.obsm if key.startswith("X_")],
            "layers": [key for key in table.layers if key == "rankbygene"],
            "obs": [key for key in table.obs if key.startswith("rankbygene")],
            "var": [key for key in table.var if key.startswith("rankbygene")],
            "uns": [key for key in table.uns if key.startswith("rankbygene")],
        }
        if not keys["uns"]:
            # Without their seal, parts of results are none.
            continue
        parts.append(name)
        for slot, found in keys.items():
            for key in sorted(found):
                value = getattr(table, slot)[key]
                text = json.dumps(_plain(value)) if slot == "uns" else ""
                values = b"" if slot == "uns" else _bytes(value)
                parts.append(f"{slot} {key} {text} {_digest(values)}")
        if name == "rankbygene":
            parts.append(_digest(dense(table.X).tobytes()))
    own = contents(sdata) if "table" in sdata.tables else ""
    return {"own": own, "result": _digest("\n".join(parts).encode()) if parts else ""}


def read_model(path: Path) -> dict[str, str]:
    """Tell a saved model by all of its tensors; loading finds one that was moved aside."""
    try:
        model = rbg.model.load(path)
    except rbg.errors.InputValueError:
        if path.exists():
            raise
        return {"result": ""}
    tensors = sorted(model.module.state_dict().items())
    return {"result": _digest(b"".join(tensor.numpy().tobytes() for _, tensor in tensors))}


def read_result(path: Path) -> dict[str, str]:
    """Tell a result by its scores."""
    try:
        result = rbg.tl.load_result(path)
    except rbg.errors.InputValueError:
        if path.exists():
            raise
        return {"result": ""}
    return {"result": _digest(result.per_gene.to_csv().encode())}


def _prefixed(found: dict[str, str]) -> dict[str, str]:
    # The command writes a model and a store, one after the other.
    return {f"{key} of the store": value for key, value in found.items()}


def _bytes(value: Any) -> bytes:
    array = np.asarray(value)
    if array.dtype.kind == "O":
        return repr(array.tolist()).encode()
    return np.ascontiguousarray(array).tobytes()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in sorted(value.items())}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value


def _digest(values: bytes) -> str:
    return hashlib.sha256(values).hexdigest()[:16]
