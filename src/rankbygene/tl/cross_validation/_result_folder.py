"""Reading what a cross-validation has saved."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rankbygene._arguments import checked
from rankbygene._atomic import settle
from rankbygene._reading import reading, regular_file
from rankbygene.errors import InputValueError
from rankbygene.io._checksums import file_checksum, record_checksum
from rankbygene.io._hest import read_json_object, read_table
from rankbygene.tl.cross_validation._result import FOLDER_FORMAT, CrossValidation

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["load_result"]

_TEXTS = ("method", "fold", "slide", "patient", "gene", "note")
_WHOLE = re.compile(r"-?\d+")


@checked
def load_result(path: str | Path) -> CrossValidation:
    """Read what :meth:`CrossValidation.save` has written.

    Parameters
    ----------
    path
        The folder.

    Returns
    -------
    The result, with equal tables, to the last digit.

    Raises
    ------
    InputValueError
        The folder is no saved result, was written by a version that did not say enough, or is damaged.
    """
    folder = Path(path)
    settle(folder)
    file = regular_file(folder / "result.json")
    record = read_json_object(file)
    if record.get("format") != FOLDER_FORMAT:
        msg = (
            f"{file} has format {record.get('format')!r} and this version reads {FOLDER_FORMAT}; its tables "
            "are plain csv, or run the cross-validation again (a fold store gives finished folds back)"
        )
        raise InputValueError(msg)
    _check_intact(folder, record)
    predictions = read_table(folder / "predictions.h5ad")
    with reading(file, "a saved result"):
        names = {
            key: tuple(map(str, record[key])) for key in ("methods", "baselines", "references")
        }
        return CrossValidation(
            per_gene=_read_csv(folder / "per_gene.csv"),
            predictions=predictions,
            runs=_read_csv(folder / "runs.csv"),
            provenance=dict(record["provenance"]),
            **names,
        )


def _check_intact(folder: Path, record: Mapping[str, Any]) -> None:
    """Hold every file, and the record of their checksums, against what was written."""
    rest = {key: value for key, value in record.items() if key != "checksum"}
    files = record.get("sha256")
    sound = record_checksum(rest) == record.get("checksum") and isinstance(files, dict)
    damaged = [] if sound else ["result.json"]
    for name, checksum in files.items() if isinstance(files, dict) and sound else ():
        file = folder / Path(name).name
        if not file.is_file() or file_checksum(file) != checksum:
            damaged.append(name)
    if damaged:
        msg = f"{folder} is damaged: {', '.join(damaged)} missing or changed; use a copy of the folder"
        raise InputValueError(msg)


def _read_csv(path: Path) -> pd.DataFrame:
    with reading(path, "CSV"):
        # As text, since pandas takes a gene or patient called "NA", or "007", for something else.
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        return pd.DataFrame({name: _column(name, values) for name, values in table.items()})


def _column(name: Any, values: pd.Series[str]) -> Any:
    if name in _TEXTS:
        texts = values.astype(object)
        return texts.where(texts != "", None) if name == "patient" else texts
    if len(values) and all(_WHOLE.fullmatch(text) for text in values):
        return values.astype(np.int64)
    return np.array([float(text) if text else np.nan for text in values])
