"""A model as a folder: tensors in safetensors, the rest in JSON, the history in CSV."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pandas as pd

from rankbygene._atomic import settle
from rankbygene.base._schema import MAX_BYTES, SLIDE_RECORD, SPOT_RECORD, check_record
from rankbygene.errors import InputKeyError, InputTypeError, InputValueError, RankByGeneError
from rankbygene.io import atomic_directory
from rankbygene.io._checksums import file_checksum as _sha256
from rankbygene.io._checksums import record_checksum as _checksum
from rankbygene.nn.encoders._weights import load_shared, save_tensors, shared_state

if TYPE_CHECKING:
    import torch

# 2: checksums of every file. Format 1 had one of the tensors only.
FORMAT, READABLE = 2, (1, 2)
WEIGHTS, RECORD, HISTORY = "model.safetensors", "model.json", "history.csv"


def write_folder(
    path: str | Path,
    record: Mapping[str, Any],
    tensors: dict[str, torch.Tensor],
    history: Mapping[str, pd.DataFrame] | None,
    *,
    overwrite: bool,
) -> None:
    """Write a model completely or not at all.

    Raises
    ------
    OutputExistsError
        The folder exists and ``overwrite`` is False.
    """
    with atomic_directory(Path(path), overwrite=overwrite) as folder:
        save_tensors(tensors, folder / WEIGHTS)
        if history:
            pd.concat(history.values(), axis=1).to_csv(folder / HISTORY)
        files = {file.name: _sha256(file) for file in sorted(folder.iterdir())}
        full = {"format": FORMAT, **record, "sha256": files}
        text = json.dumps({**full, "checksum": _checksum(full)}, indent=1, allow_nan=False)
        (folder / RECORD).write_text(text, encoding="utf-8")


def read_record(folder: Path, class_name: str | None = None) -> dict[str, Any]:
    """Read what a saved model, of a class if one is named, is made of.

    Raises
    ------
    InputValueError
        The folder is damaged, of another class or made by something else.
    """
    settle(folder)  # a process that was killed while it replaced the model may have moved it aside
    path = folder / RECORD
    if not path.is_file():
        msg = (
            f"{folder} is not a saved model: it has no {RECORD}. Give the folder that `save` wrote."
        )
        raise InputValueError(msg)
    record = _read_json(path)
    found, made_by = record.get("format"), record.get("class")
    if found not in READABLE or isinstance(found, bool):
        msg = f"{path} has format {found!r}, this version reads {READABLE}; update rankbygene"
        raise InputValueError(msg)
    if class_name is not None and made_by != class_name:
        msg = f"{folder} holds a {made_by}; load it with `rankbygene.model.{made_by}.load`"
        raise InputValueError(msg)
    if found == 1:
        record["sha256"] = {WEIGHTS: record.get("sha256")}
    elif record.pop("checksum", None) != _checksum(record):
        msg = f"{path} is damaged: its contents and its checksum differ; use a copy of the folder"
        raise InputValueError(msg)
    check_record(record, SLIDE_RECORD if "unit" in record else SPOT_RECORD, str(path))
    _check_files(folder, record["sha256"])
    return record


def _read_json(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        msg = f"{constant} is no number"
        raise ValueError(msg)

    try:
        if path.stat().st_size > MAX_BYTES:
            msg = f"it has {path.stat().st_size:,} bytes"
            raise ValueError(msg)
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
        if not isinstance(record, dict):
            msg = f"it holds a {type(record).__name__}"
            raise TypeError(msg)
    except (ValueError, TypeError, RecursionError, OSError) as error:
        msg = f"{path} is damaged or foreign ({error}); save the model again or use a copy"
        raise InputValueError(msg) from error
    return record


def _check_files(folder: Path, checksums: Any) -> None:
    """Hold every file that is named against its checksum."""
    if not isinstance(checksums, dict) or WEIGHTS not in checksums:
        msg = f"{folder / RECORD} is damaged or foreign: it has no checksum of {WEIGHTS}"
        raise InputValueError(msg)
    for name, checksum in checksums.items():
        if name not in (WEIGHTS, HISTORY):
            msg = f"{folder / RECORD} names a file {name!r}, which no model has; it is foreign"
            raise InputValueError(msg)
        path = folder / name
        if not path.is_file():
            msg = f"{folder} has no {name}; the folder is incomplete, use another copy"
            raise InputValueError(msg)
        if _sha256(path) != checksum:
            msg = f"{path} is damaged or truncated: its checksum is not the one in {RECORD}"
            raise InputValueError(msg)


@contextmanager
def building(folder: Path) -> Iterator[None]:
    """Say that a record describes nothing that can be built, whatever that raises.

    Raises
    ------
    InputValueError
        The block met an error, other than that an encoder cannot be had.
    """
    try:
        yield
    except (InputValueError, InputKeyError, InputTypeError) as error:
        msg = f"{folder / RECORD} describes no model that can be built: {error}"
        raise InputValueError(msg) from error
    except RankByGeneError:
        raise
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        msg = (
            f"{folder / RECORD} describes no model that this version can build "
            f"({type(error).__name__}: {error}); it is damaged, foreign, or of another version"
        )
        raise InputValueError(msg) from error


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a saved model, whose checksums :func:`read_record` has compared.

    Raises
    ------
    InputValueError
        The file is foreign, or a weight is not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        msg = f"{path} is not a safetensors file ({error})"
        raise InputValueError(msg) from error
    broken = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if broken:
        msg = (
            f"{path} holds NaN or infinite values in {len(broken)} tensors (first: {broken[:3]}); such a "
            "model predicts nothing. Train it again"
        )
        raise InputValueError(msg)
    return tensors


def read_history(folder: Path) -> dict[str, pd.DataFrame] | None:
    """Read the history of a saved model; None where it has none."""
    path = folder / HISTORY
    if not path.exists():
        return None
    try:
        history = pd.read_csv(path, index_col=0)
    except (ValueError, OSError) as error:
        msg = f"{path} is no table of scores ({error}); use another copy, or delete this file"
        raise InputValueError(msg) from error
    return {name: history[[name]].dropna() for name in history.columns}


def module_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copy every tensor of a network, under ``module.``; one that several parts share once."""
    return {
        f"module.{name}": tensor.detach().cpu().contiguous().clone()
        for name, tensor in shared_state(module).items()
    }


def load_module(
    module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], description: str
) -> None:
    """Put the tensors under ``module.`` back and set the network to evaluate.

    Raises
    ------
    InputValueError
        They do not fit the network.
    """
    prefix = "module."
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    try:
        load_shared(module, state)
    except RuntimeError as error:
        msg = f"the tensors do not fit the {description} network: {error}"
        raise InputValueError(msg) from error
    module.eval()
