"""Results of many rows on disk, part by part, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rankbygene._atomic import atomic_directory, claim, is_temporary, remove_directory
from rankbygene.errors import InputValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Parts", "write_array"]

_JOB = "job.json"
# What each part says of itself: its job, and kind, length and checksum of each array.
_RECORD = "part.json"


class _DamagedError(Exception):
    """A part is not what was written."""


class Parts:
    """Arrays over ``n_rows`` rows, in a folder, in parts of consecutive rows.

    A part is there completely or not at all. Several processes may write different parts of one
    folder. Each part names its job and has checksums: one that is damaged is as good as not there.

    Parameters
    ----------
    folder
        Where the parts are; made if need be.
    job
        What the arrays are the result of, in values that JSON keeps. Parts of another job are never
        mixed with these.
    n_rows, part_size
        Rows in all, and of a part; the last one may have fewer.

    Raises
    ------
    InputValueError
        The folder holds parts of another job, or something else.
    """

    def __init__(
        self, folder: Path, job: Mapping[str, Any], *, n_rows: int, part_size: int
    ) -> None:
        self.folder = folder
        self.n_rows, self.part_size = n_rows, part_size
        whole = json.dumps({**job, "n_rows": n_rows, "part_size": part_size}, sort_keys=True)
        self._digest = hashlib.sha256(whole.encode()).hexdigest()
        self._checked: set[int] = set()
        self._claim(json.loads(whole))

    def __len__(self) -> int:
        return -(-self.n_rows // self.part_size)

    def rows(self, part: int) -> slice:
        """Rows of a part."""
        start = part * self.part_size
        return slice(start, min(start + self.part_size, self.n_rows))

    def is_done(self, part: int) -> bool:
        """Whether a part has been written, and is what was written.

        Warns
        -----
        UserWarning
            It is damaged, or belongs to another run, and has to be computed again.
        """
        if part not in self._checked and self._place(part).exists():
            try:
                self._check(part)
            # What is damaged gives errors of many kinds: of NumPy, of the parser of its headers, of JSON.
            except Exception as error:  # noqa: BLE001
                msg = f"{self._place(part)} is damaged ({error}); it is computed again"
                warnings.warn(msg, UserWarning, stacklevel=2)
                return False
            self._checked.add(part)
        return part in self._checked

    def is_complete(self) -> bool:
        """Whether all parts have been written."""
        return all(self.is_done(part) for part in range(len(self)))

    def write(self, part: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the arrays of one part, each with the part's rows first."""
        self._checked.discard(part)
        record = {
            "job": self._digest,
            "part": part,
            "arrays": {name: _described(values) for name, values in arrays.items()},
        }
        with atomic_directory(self._place(part), overwrite=True) as place:
            for name, values in arrays.items():
                write_array(place / f"{name}.npy", values)
            (place / _RECORD).write_text(json.dumps(record), encoding="utf-8")

    def remove(self) -> None:
        """Remove the folder; a process that is killed at it leaves nothing that stands for parts."""
        remove_directory(self.folder)

    def names(self) -> list[str]:
        """Names of the arrays."""
        return sorted(path.stem for path in self._place(0).glob("*.npy"))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array over all rows."""
        return self.n_rows, *self._open(0, name).shape[1:]

    def read(self, name: str, rows: NDArray[np.intp]) -> NDArray[Any]:
        """Read some rows of an array, in their order."""
        part_of_row = rows // self.part_size
        for part in np.unique(part_of_row).tolist():
            if not self.is_done(part):
                msg = f"{self._place(part)} is missing or damaged; compute it again first"
                raise InputValueError(msg)
        first = self._open(0, name)
        values = np.empty((len(rows), *first.shape[1:]), first.dtype)
        for part in np.unique(part_of_row).tolist():
            wanted = part_of_row == part
            values[wanted] = self._open(part, name)[rows[wanted] - self.rows(part).start]
        return values

    def _open(self, part: int, name: str) -> NDArray[Any]:
        try:
            array: NDArray[Any] = np.load(self._place(part) / f"{name}.npy", mmap_mode="r")
        except (EOFError, SyntaxError) as error:
            msg = f"{self._place(part) / name}.npy has no header ({error})"
            raise InputValueError(msg) from error
        return array

    def _place(self, part: int) -> Path:
        return self.folder / f"{part:06d}"

    def _check(self, part: int) -> None:
        """Compare a part with what it says of itself."""
        place, rows = self._place(part), self.rows(part)
        record = json.loads(_regular(place / _RECORD).read_text(encoding="utf-8"))
        if (record["job"], record["part"]) != (self._digest, part):
            msg = "it belongs to another run"
            raise _DamagedError(msg)
        for name, described in record["arrays"].items():
            _regular(place / f"{name}.npy")
            values = self._open(part, name)
            if _described(values) != described or len(values) != rows.stop - rows.start:
                msg = f"{name}.npy is not what was written"
                raise _DamagedError(msg)

    def _claim(self, job: dict[str, Any]) -> None:
        found = claim(self.folder, _JOB, job, is_ours=_is_part)
        if not isinstance(found, dict):
            msg = f"{self.folder / _JOB} does not describe a run; delete the folder"
            raise InputValueError(msg)
        differing = sorted(_differing(job, found))
        if differing:
            msg = (
                f"{self.folder} holds an interrupted run that differs from this one in "
                f"{', '.join(differing)}; repeat that run to finish it, or delete the folder"
            )
            raise InputValueError(msg)


def write_array(file: Path, values: NDArray[Any]) -> None:
    """Write an array; NumPy itself does not notice when the last bytes of a file find no room."""
    content = io.BytesIO()
    np.save(content, values)
    file.write_bytes(content.getbuffer())


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    """Names of what differs; of parts of it, where both have parts."""
    names = set()
    for key in {*one, *other}:
        mine, theirs = one.get(key), other.get(key)
        if mine == theirs:
            continue
        if isinstance(mine, dict) and isinstance(theirs, dict):
            names |= {f"{key} ({inner})" for inner in _differing(mine, theirs)}
        else:
            names.add(key)
    return names


def _is_part(path: Path) -> bool:
    """Whether something is a part by its name and by what it holds."""
    if is_temporary(path):
        return True
    if not re.fullmatch(r"[0-9]{6,}", path.name) or not path.is_dir():
        return False
    return all(item.name == _RECORD or item.suffix == ".npy" for item in path.iterdir())


def _regular(path: Path) -> Path:
    # Opening a pipe would wait for ever.
    if not path.is_file():
        msg = f"{path.name} is missing, or no file"
        raise _DamagedError(msg)
    return path


def _described(values: NDArray[Any]) -> dict[str, Any]:
    """Kind, shape and checksum of an array, in values that JSON keeps."""
    plain = np.ascontiguousarray(values)
    checksum = zlib.crc32(plain.reshape(-1).view(np.uint8).data)
    return {"dtype": plain.dtype.str, "shape": list(values.shape), "crc32": checksum}
