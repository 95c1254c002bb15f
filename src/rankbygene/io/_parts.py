"""Results of many rows on disk, part by part, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rankbygene.errors import InputValueError, OutputExistsError
from rankbygene.io._atomic import atomic_directory, atomic_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Parts"]

_JOB = "job.json"


class Parts:
    """Arrays over ``n_rows`` rows, in a folder, in parts of consecutive rows.

    A part is there completely or not at all. Several processes may write different parts of one
    folder.

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
        self._claim({**job, "n_rows": n_rows, "part_size": part_size})

    def __len__(self) -> int:
        return -(-self.n_rows // self.part_size)

    def rows(self, part: int) -> slice:
        """Rows of a part."""
        start = part * self.part_size
        return slice(start, min(start + self.part_size, self.n_rows))

    def is_done(self, part: int) -> bool:
        """Whether a part has been written."""
        return self._place(part).exists()

    def is_complete(self) -> bool:
        """Whether all parts have been written."""
        return all(self.is_done(part) for part in range(len(self)))

    def write(self, part: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the arrays of one part, each with the part's rows first."""
        with atomic_directory(self._place(part), overwrite=True) as place:
            for name, values in arrays.items():
                np.save(place / f"{name}.npy", values)

    def names(self) -> list[str]:
        """Names of the arrays."""
        return sorted(path.stem for path in self._place(0).iterdir())

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array over all rows."""
        return self.n_rows, *self._open(0, name).shape[1:]

    def read(self, name: str, rows: NDArray[np.intp]) -> NDArray[Any]:
        """Read some rows of an array, in their order."""
        part_of_row = rows // self.part_size
        first = self._open(0, name)
        values = np.empty((len(rows), *first.shape[1:]), first.dtype)
        for part in np.unique(part_of_row).tolist():
            wanted = part_of_row == part
            values[wanted] = self._open(part, name)[rows[wanted] - self.rows(part).start]
        return values

    def _open(self, part: int, name: str) -> NDArray[Any]:
        array: NDArray[Any] = np.load(self._place(part) / f"{name}.npy", mmap_mode="r")
        return array

    def _place(self, part: int) -> Path:
        return self.folder / f"{part:06d}"

    def _claim(self, job: dict[str, Any]) -> None:
        path = self.folder / _JOB
        if not path.exists():
            self._check_ours()
            self.folder.mkdir(parents=True, exist_ok=True)
            # Processes that begin together write the same bytes, or find in what they differ.
            with contextlib.suppress(OutputExistsError), atomic_file(path) as new:
                new.write_text(json.dumps(job, indent=1), encoding="utf-8")
        found = json.loads(path.read_text(encoding="utf-8"))
        differing = sorted(key for key in {*job, *found} if job.get(key) != found.get(key))
        if differing:
            msg = (
                f"{self.folder} holds an interrupted run that differs from this one in "
                f"{', '.join(differing)}; repeat that run to finish it, or delete the folder"
            )
            raise InputValueError(msg)

    def _check_ours(self) -> None:
        """Refuse a folder of something else; what another process is writing is hidden."""
        if not self.folder.exists():
            return
        if any(
            item.name != _JOB and not item.name.startswith(".") for item in self.folder.iterdir()
        ):
            msg = f"{self.folder} holds something else; move it away, it is needed for parts of results"
            raise InputValueError(msg)
