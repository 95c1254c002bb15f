"""Finished folds on disk, so that a cross-validation can be interrupted or spread over jobs."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rankbygene._atomic import check_claimable, check_regular, claim, settle
from rankbygene.errors import InputTypeError, InputValueError
from rankbygene.io import atomic_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["UNTOLD", "FoldStore", "Outcome"]

# Where settings name what cannot be told from another, so that nothing that depends on it is reused.
UNTOLD = "untold"
_STUDY = "study.json"
# What tells a slide by its contents; both values are of no use to a reader.
_DIGEST = re.compile(r"[0-9a-f]{16,}")


class _DamagedError(Exception):
    """A file is not what was written."""


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

    Each file has a checksum and names its study, fold, seed and the settings of its method: one that is
    damaged, or lies in another one's place, is as good as not there.

    Parameters
    ----------
    path
        The folder; made if it does not exist. Processes may begin it together.
    study
        What all files have in common: data, folds, panel, scale. A folder that was begun with
        another one is refused.

    Raises
    ------
    InputTypeError, InputValueError
        The folder cannot be a store, or belongs to another study; what differs is named.
    """

    def __init__(self, path: str | Path, study: Mapping[str, Any]) -> None:
        self.check(path)
        self.path = Path(path)
        plain = json.loads(json.dumps(study))
        self._check_study(claim(self.path, _STUDY, plain, is_ours=_nothing), plain)
        self._digest = _checksum(json.dumps(plain, sort_keys=True))

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
        check_claimable(Path(path), _STUDY, is_ours=_nothing)

    def load(
        self,
        method: str,
        fold: str,
        seed: int,
        settings: str,
        *,
        n_spots: int,
        genes: int | Sequence[str],
    ) -> Outcome | None:
        """Read a finished fold, or give None.

        Parameters
        ----------
        method, fold, seed
            Which one.
        settings
            What the method is told by, a JSON object.
        n_spots, genes
            What the predictions are of: held-out spots; the panel, or how many genes it has at most.

        Raises
        ------
        InputValueError
            The method had other settings, or a folder or pipe has the name of the file.

        Warns
        -----
        UserWarning
            The file is damaged, or it cannot be told whether the method is still the same.
        """
        file = self._file(method, fold, seed)
        settle(file)  # a process may have been killed after its file was complete
        check_regular(file)
        if not file.exists():
            return None
        try:
            record, outcome = _read(file)
            self._check_place(record, method, fold, seed)
            _check_outcome(outcome, n_spots, genes)
            found = str(record["settings"])
        # A damaged archive gives errors of many kinds: of zipfile, zlib, struct, NumPy, JSON.
        except Exception as error:  # noqa: BLE001
            msg = f"{file} is damaged ({type(error).__name__}: {error}); the fold is computed again"
            warnings.warn(msg, UserWarning, stacklevel=2)
            return None
        if found != settings:
            different = "; ".join(_differences(json.loads(found), json.loads(settings)))
            msg = (
                f"{file} was computed with other settings of {method!r} ({different}); give the method "
                "another name, or pass another store"
            )
            raise InputValueError(msg)
        untold = json.loads(settings).get(UNTOLD)
        if untold:
            msg = (
                f"{file} is not used: {method!r} depends on what cannot be told from another "
                f"({', '.join(untold)}); the fold is computed again"
            )
            warnings.warn(msg, UserWarning, stacklevel=2)
            return None
        return outcome

    def save(self, method: str, fold: str, seed: int, settings: str, outcome: Outcome) -> None:
        """Write a finished fold."""
        record = {**self._place(method, fold, seed), "settings": settings}
        parts: dict[str, Any] = {
            "predictions": np.ascontiguousarray(outcome.predictions, np.float32),
            "genes": np.array(outcome.genes, dtype=str),
            "seconds": np.float64(outcome.seconds),
            "peak_memory_mb": np.float64(outcome.peak_memory_mb),
            "note": np.array(outcome.note),
            "record": np.array(json.dumps(record, sort_keys=True)),
        }
        with atomic_file(self._file(method, fold, seed), overwrite=True) as out:
            np.savez_compressed(out, checksum=np.array(_checksum_of(parts)), **parts)

    def _file(self, method: str, fold: str, seed: int) -> Path:
        return self.path / f"seed={seed}" / f"fold={_plain(fold)}" / f"{_plain(method)}.npz"

    def _place(self, method: str, fold: str, seed: int) -> dict[str, Any]:
        return {"study": self._digest, "method": method, "fold": fold, "seed": int(seed)}

    def _check_place(self, record: Mapping[str, Any], method: str, fold: str, seed: int) -> None:
        place = self._place(method, fold, seed)
        different = [name for name, value in place.items() if record[name] != value]
        if different:
            msg = f"it is that of another {', '.join(different)}"
            raise _DamagedError(msg)

    def _check_study(self, known: Any, study: Mapping[str, Any]) -> None:
        if not isinstance(known, dict):
            msg = f"{self.path / _STUDY} does not describe a study; pass another store"
            raise InputValueError(msg)
        different = list(_study_differences(known, study))
        if different:
            msg = (
                f"{self.path} belongs to another study ({'; '.join(different)}); pass another store"
            )
            raise InputValueError(msg)


def _nothing(_: Path) -> bool:
    # Without its study nobody can tell what finished folds belong to.
    return False


def _read(file: Path) -> tuple[dict[str, Any], Outcome]:
    """Read a file that is what was written."""
    with np.load(file, allow_pickle=False) as stored:
        values = {name: stored[name] for name in stored.files}
    if _checksum_of(values, leave="checksum") != str(values["checksum"]):
        msg = "its checksum is another"
        raise _DamagedError(msg)
    outcome = Outcome(
        values["predictions"],
        [str(gene) for gene in values["genes"]],
        float(values["seconds"]),
        float(values["peak_memory_mb"]),
        str(values["note"]),
    )
    return json.loads(str(values["record"])), outcome


def _check_outcome(outcome: Outcome, n_spots: int, genes: int | Sequence[str]) -> None:
    """Refuse what no method gives, whatever the checksum says."""
    predictions = outcome.predictions
    shape = n_spots, len(outcome.genes)
    if predictions.dtype != np.float32 or predictions.shape != shape:
        msg = f"predictions are {predictions.dtype} {predictions.shape}, not float32 {shape}"
        raise _DamagedError(msg)
    if isinstance(genes, int):
        fits = 0 < len(outcome.genes) <= genes and len(set(outcome.genes)) == len(outcome.genes)
    else:
        fits = outcome.genes == list(genes)
    if not fits:
        msg = "its genes are not a panel of this study"
        raise _DamagedError(msg)
    if not np.isfinite(predictions).all() or not np.isfinite(outcome.seconds):
        msg = "it holds values that are not finite"
        raise _DamagedError(msg)


def _checksum_of(values: Mapping[str, Any], leave: str = "") -> str:
    parts: list[Any] = []
    for name in sorted(set(values) - {leave}):
        array = np.ascontiguousarray(values[name])
        parts += [f"{name} {array.dtype.str} {array.shape}", array.tobytes()]
    return _checksum(*parts)


def _checksum(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.encode())
    return digest.hexdigest()


def _study_differences(known: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Name what differs, and of a slide which part."""
    then, slides = known.get("slides"), now.get("slides")
    if isinstance(then, dict) and isinstance(slides, dict) and then.keys() == slides.keys():
        for name, slide in slides.items():
            for part in slide:
                yield from _differences(
                    then[name].get(part), slide[part], f"{part} of slide {name!r}"
                )
        known, now = ({k: v for k, v in one.items() if k != "slides"} for one in (known, now))
    yield from _differences(known, now)


def _differences(known: Any, now: Any, name: str = "") -> list[str]:
    """Name what differs, with both values where a reader can use them."""
    if json.dumps(known, sort_keys=True) == json.dumps(now, sort_keys=True):
        return []
    if isinstance(known, dict) and isinstance(now, dict):
        inner = [
            _differences(known.get(key), now.get(key), f"{name}: {key}" if name else str(key))
            for key in sorted({*known, *now})
        ]
        return [text for texts in inner for text in texts]
    if any(isinstance(value, str) and _DIGEST.fullmatch(value) for value in (known, now)):
        return [f"{name} differ"]
    return [f"{name}: {_short(known)} there, {_short(now)} now"]


def _short(value: Any, limit: int = 200) -> str:
    text = str(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _plain(name: str) -> str:
    """Make a file name of any name, different ones for different names."""
    safe = re.sub(r"[^A-Za-z0-9.-]", lambda found: f"_{ord(found[0]):x}_", name)
    return safe if safe.strip(".") else f"_{safe}"
