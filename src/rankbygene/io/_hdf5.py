"""HDF5 files that are what they say: whole, of a size they can hold, and without data of other files."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rankbygene._reading import reading, regular_file
from rankbygene.errors import InputValueError

__all__ = ["check_seal", "check_stored", "is_seal", "open_h5", "seal"]

_SEAL = "rankbygene_crc32"
# Of a dataset that is read at once to compare its checksum, in bytes.
_CHECKED_AT_ONCE = 1 << 24
# The strongest of the usual compressors makes constant bytes about a thousand times smaller.
_MOST_EXPANSION = 1000
# What any file may unpack to, however small.
_ALWAYS_BYTES = 1 << 26


@contextmanager
def open_h5(path: str | Path, kind: str = "HDF5") -> Iterator[h5py.File]:
    """Open a file whose data all lie in it; whatever its reader raises becomes an error that names it.

    HDF5 lets a file name others as the place of its data, which would then be read as its own: no file
    that is handed on needs it, and one from a stranger could reach any file of this machine.

    Parameters
    ----------
    path
        The file.
    kind
        What it should be, such as ``"h5ad"``.

    Raises
    ------
    InputValueError
        It is no regular file, cannot be read, or points to other files.
    """
    with reading(regular_file(path), kind), h5py.File(path, "r") as file:
        _check_own(file, path)
        yield file


def check_stored(dataset: h5py.Dataset, path: str | Path) -> None:
    """Refuse a dataset of which parts were never written, or that unpacks to more than such a file holds.

    Parts that are not there would be read as a constant, and their memory taken before anything is read.

    Raises
    ------
    InputValueError
        It is so.
    """
    place = f"{dataset.name!r} of {path}"
    stored = min(dataset.id.get_storage_size(), Path(path).stat().st_size)
    if dataset.chunks is None:
        n_bytes, whole = dataset.nbytes, stored >= dataset.nbytes
    else:
        grid = zip(dataset.shape, dataset.chunks, strict=True)
        n_chunks = math.prod(-(-length // size) for length, size in grid)
        n_bytes = n_chunks * math.prod(dataset.chunks) * dataset.dtype.itemsize
        whole = dataset.id.get_num_chunks() == n_chunks
    if not whole:
        msg = (
            f"{place} has the shape {dataset.shape}, and parts of it were never written; "
            "make the file again"
        )
        raise InputValueError(msg)
    limit = max(_ALWAYS_BYTES, _MOST_EXPANSION * stored)
    if n_bytes > limit:
        msg = (
            f"{place} has the shape {dataset.shape}, {n_bytes:,} bytes from {stored:,} in the file; at most "
            f"{limit:,} are read ({_MOST_EXPANSION} times what is stored). Store it without compression"
        )
        raise InputValueError(msg)


def seal(dataset: h5py.Dataset) -> None:
    """Write a checksum over the values of a dataset and its attributes, as one further attribute."""
    dataset.attrs[_SEAL] = np.uint32(_checksum(dataset))


def is_seal(attribute: str) -> bool:
    """Whether an attribute is a checksum and says nothing of the slide."""
    return attribute == _SEAL


def check_seal(dataset: h5py.Dataset, path: str | Path) -> None:
    """Compare a dataset with its checksum, if it has one; most files of other programs have none.

    Raises
    ------
    InputValueError
        They differ.
    """
    if _SEAL in dataset.attrs and dataset.attrs[_SEAL] != _checksum(dataset):
        msg = (
            f"{dataset.name!r} of {path} is not what was written: it is damaged, or another program changed "
            "it. Get the file again, or write it again"
        )
        raise InputValueError(msg)


def _check_own(file: h5py.File, path: str | Path) -> None:
    # Links within the file lead to what is visited by its own name.
    found = file.visititems_links(_linked_from) or file.visititems(_stored_in)
    if found is not None:
        name, how = found
        msg = (
            f"{name!r} of {path} lies in another file ({how}), which is not read; "
            "copy the data into the file"
        )
        raise InputValueError(msg)


def _linked_from(name: str, link: Any) -> tuple[str, str] | None:
    return (name, f"a link to {link.filename}") if isinstance(link, h5py.ExternalLink) else None


def _stored_in(name: str, item: Any) -> tuple[str, str] | None:
    if not isinstance(item, h5py.Dataset):
        return None
    if item.is_virtual:
        return name, "a virtual dataset"
    return (name, f"external storage in {item.external[0][0]}") if item.external else None


def _checksum(dataset: h5py.Dataset) -> int:
    """Checksum of kind, shape, attributes and values, of which only some are in memory at a time."""
    attributes = {
        name: np.asarray(value).tolist()
        for name, value in sorted(dataset.attrs.items())
        if not is_seal(name)
    }
    described = repr((dataset.dtype.str, dataset.shape, attributes))
    value = zlib.crc32(described.encode("utf-8", "backslashreplace"))
    row_bytes = math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
    at_once = max(1, _CHECKED_AT_ONCE // max(1, row_bytes))
    for start in range(0, dataset.shape[0], at_once):
        block = np.ascontiguousarray(dataset[start : start + at_once])
        value = zlib.crc32(block.reshape(-1).view(np.uint8).data, value)
    return value
