"""A model as a folder: tensors in safetensors, the rest in JSON, the history in CSV."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rankbygene.errors import InputValueError
from rankbygene.io import atomic_directory
from rankbygene.nn._weights import load_shared, shared_state

if TYPE_CHECKING:
    import torch

FORMAT = 1
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
    from safetensors.torch import save_file

    with atomic_directory(Path(path), overwrite=overwrite) as folder:
        save_file(tensors, folder / WEIGHTS)
        full = {"format": FORMAT, **record, "sha256": _sha256(folder / WEIGHTS)}
        text = json.dumps(full, indent=1, allow_nan=False)
        (folder / RECORD).write_text(text, encoding="utf-8")
        if history:
            pd.concat(history.values(), axis=1).to_csv(folder / HISTORY)


def read_record(folder: Path, class_name: str | None = None) -> dict[str, Any]:
    """Read what a saved model, of a class if one is named, is made of.

    Raises
    ------
    InputValueError
        The folder is damaged, of another class or made by something else.
    """
    path = folder / RECORD
    if not path.is_file():
        msg = (
            f"{folder} is not a saved model: it has no {RECORD}. Give the folder that `save` wrote."
        )
        raise InputValueError(msg)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found, made_by = record["format"], record["class"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        msg = f"{path} is damaged or foreign ({error}); save the model again or use a copy"
        raise InputValueError(msg) from error
    if found != FORMAT:
        msg = f"{path} has format {found}, this version reads format {FORMAT}; update rankbygene"
        raise InputValueError(msg)
    if class_name is not None and made_by != class_name:
        msg = f"{folder} holds a {made_by}; load it with `rankbygene.model.{made_by}.load`"
        raise InputValueError(msg)
    loaded: dict[str, Any] = record
    return loaded


def read_tensors(folder: Path, record: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Read the tensors of a saved model.

    Raises
    ------
    InputValueError
        The file is missing, damaged or foreign.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    if not path.is_file():
        msg = f"{folder} has no {WEIGHTS}; the folder is incomplete, use another copy"
        raise InputValueError(msg)
    if _sha256(path) != record["sha256"]:
        msg = f"{path} is damaged or truncated: its checksum is not the one in {RECORD}"
        raise InputValueError(msg)
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except SafetensorError as error:
        msg = f"{path} is not a safetensors file ({error})"
        raise InputValueError(msg) from error
    return tensors


def read_history(folder: Path) -> dict[str, pd.DataFrame] | None:
    """Read the history of a saved model; None where it has none."""
    path = folder / HISTORY
    if not path.exists():
        return None
    history = pd.read_csv(path, index_col=0)
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
