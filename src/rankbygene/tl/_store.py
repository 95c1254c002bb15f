"""Finished folds on disk, so that a cross-validation can be interrupted or spread over jobs."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rankbygene.errors import InputTypeError, InputValueError
from rankbygene.io import atomic_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FoldStore", "Outcome"]

_STUDY = "study.json"


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one method gave on one fold with one seed.

    Attributes
    ----------
    predictions
        Float32 ``[n_spots, n_genes]``, the held-out slides one after the other.
    genes
        The panel of the fold.
    seconds, peak_memory_mb
        Wall time, and the largest resident memory of the process (on a GPU: allocated memory).
    note
        What the method has to say of itself, such as which candidate it chose.
    """

    predictions: NDArray[np.float32]
    genes: list[str]
    seconds: float
    peak_memory_mb: float
    note: str = ""


class FoldStore:
    """A folder with one file per method, fold and seed, each there completely or not at all.

    Parameters
    ----------
    path
        The folder; made if it does not exist.
    study
        What all files have in common: data, folds, panel, scale. A folder that was begun with
        another one is refused.

    Raises
    ------
    InputValueError
        The folder belongs to another study; the settings that differ are named.
    """

    def __init__(self, path: str | Path, study: Mapping[str, Any]) -> None:
        self.check(path)
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        plain = json.loads(json.dumps(study))
        file = self.path / _STUDY
        if file.exists():
            self._check_study(file, plain)
        else:
            # Jobs of an array begin together, with the same text.
            with atomic_file(file, overwrite=True) as out:
                out.write_text(json.dumps(plain, indent=1), encoding="utf-8")

    @staticmethod
    def check(path: str | Path) -> None:
        """Refuse what can be no store, before anything is computed.

        Raises
        ------
        InputTypeError, InputValueError
            It is no path, a file, or a folder of something else.
        """
        if not isinstance(path, str | Path):
            msg = f"store is the path of a folder; found {type(path).__name__}"
            raise InputTypeError(msg)
        folder = Path(path)
        if folder.exists() and not folder.is_dir():
            msg = f"{folder} is a file; pass an empty or new folder"
            raise InputValueError(msg)
        if folder.exists() and any(folder.iterdir()) and not (folder / _STUDY).exists():
            msg = f"{folder} holds other files and no {_STUDY}; pass an empty or new folder"
            raise InputValueError(msg)

    def load(self, method: str, fold: str, seed: int, settings: str) -> Outcome | None:
        """Read a finished fold, or give None.

        Raises
        ------
        InputValueError
            The method had other settings, or the file cannot be read.
        """
        file = self._file(method, fold, seed)
        if not file.exists():
            return None
        try:
            with np.load(file, allow_pickle=False) as stored:
                values = {name: stored[name] for name in stored.files}
            found = str(values["settings"])
            outcome = Outcome(
                values["predictions"],
                [str(gene) for gene in values["genes"]],
                float(values["seconds"]),
                float(values["peak_memory_mb"]),
                str(values["note"]),
            )
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
            msg = f"{file} cannot be read ({error}); delete it, and the fold is computed again"
            raise InputValueError(msg) from error
        if found != settings:
            msg = (
                f"{file} was computed with other settings of {method!r} ({found}, now {settings}); "
                "give the method another name, or pass another store"
            )
            raise InputValueError(msg)
        return outcome

    def save(self, method: str, fold: str, seed: int, settings: str, outcome: Outcome) -> None:
        """Write a finished fold."""
        with atomic_file(self._file(method, fold, seed), overwrite=True) as out:
            np.savez_compressed(
                out,
                predictions=outcome.predictions,
                genes=np.array(outcome.genes, dtype=str),
                seconds=outcome.seconds,
                peak_memory_mb=outcome.peak_memory_mb,
                note=np.array(outcome.note),
                settings=np.array(settings),
            )

    def _file(self, method: str, fold: str, seed: int) -> Path:
        return self.path / f"seed={seed}" / f"fold={_plain(fold)}" / f"{_plain(method)}.npz"

    def _check_study(self, file: Path, study: Mapping[str, Any]) -> None:
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            msg = f"{file} is not JSON ({error}); pass another store"
            raise InputValueError(msg) from error
        different = sorted(name for name in {*known, *study} if known.get(name) != study.get(name))
        if different:
            parts = [
                f"{name}: {known.get(name)} there, {study.get(name)} now" for name in different
            ]
            msg = f"{self.path} belongs to another study ({'; '.join(parts)}); pass another store"
            raise InputValueError(msg)


def _plain(name: str) -> str:
    """Make a file name of any name, different ones for different names."""
    safe = re.sub(r"[^A-Za-z0-9.-]", lambda found: f"_{ord(found[0]):x}_", name)
    return safe if safe.strip(".") else f"_{safe}"
