"""The features of a slide's tiles in an HDF5 file, read when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from rankbygene._arguments import checked
from rankbygene.errors import InputKeyError, InputTypeError, InputValueError
from rankbygene.io._hdf5 import check_seal, check_stored, is_seal, open_h5

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["H5Bag"]

_ROWS_AT_ONCE = 4096


class H5Bag:
    """The features of a slide's tiles in an HDF5 file, read when they are asked for.

    The layout is that of CLAM :cite:p:`lu2021clam`, TRIDENT :cite:p:`zhang2025trident` and the released code of
    RankByGene: ``features`` ``[n, d]`` or ``[1, n, d]`` and, if the positions are known, ``coords`` ``[n, 2]``, the
    upper left corners of the tiles in pixels of the slide's finest level.

    Bags of :func:`write_bag_h5` carry checksums, which are compared when a bag is opened (positions) and
    at its first reading (features); bags of other tools are read without.

    Parameters
    ----------
    path
        The file.
    name
        Name of the slide; the file's name without its ending by default.
    features_key, coords_key
        Names of the two datasets.

    Attributes
    ----------
    n_tiles, n_features
        Size of the bag.
    attributes
        What the file says of itself, of its features and of its coordinates.

    Raises
    ------
    InputValueError
        The file is missing, damaged or empty, keeps data in other files, lacks parts of what it
        declares or unpacks to more than a thousand times its size, the features are not numbers in two
        dimensions, or there is not one pair of coordinates per tile.
    InputKeyError
        The file has no features under that name.

    Examples
    --------
    >>> bag = rbg.io.H5Bag("TCGA-A1-A0SB-01Z-00-DX1.h5")  # doctest: +SKIP
    >>> bag.read(np.arange(100)).shape  # doctest: +SKIP
    (100, 1024)
    """

    @checked
    def __init__(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        features_key: str = "features",
        coords_key: str = "coords",
    ) -> None:
        self.path = Path(path)
        self.name = self.path.stem if name is None else name
        self._features_key, self._coords_key = features_key, coords_key
        # Size and times of the file when its features were compared with their checksum.
        self._compared: tuple[int, ...] | None = None
        with open_h5(self.path) as file:
            self.n_tiles, self.n_features = self._features(file).shape[-2:]
            self.has_coords = coords_key in file
            if self.has_coords:
                self._coords(file)
            known = [file, *(file[key] for key in (features_key, coords_key) if key in file)]
            self.attributes = _plain({k: v for item in known for k, v in item.attrs.items()})

    def __repr__(self) -> str:
        return f"H5Bag({self.name!r}, {self.n_tiles:,} tiles, {self.n_features:,} features)"

    @property
    def coords(self) -> NDArray[np.float64] | None:
        """Upper left corners of the tiles, x and y, ``[n, 2]``; None where the file has none."""
        if not self.has_coords:
            return None
        with open_h5(self.path) as file:
            coords: NDArray[np.float64] = np.asarray(self._coords(file), np.float64)
        return coords.reshape(-1, 2)

    def read(self, rows: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
        """Read features from the file.

        Parameters
        ----------
        rows
            Tiles to read, in any order; all by default. Other tiles are not kept in memory.

        Returns
        -------
        float32 ``[len(rows), n_features]``, in the order of ``rows``.

        Raises
        ------
        InputValueError
            A row is not there, or its features are not finite or cannot be read.
        """
        wanted = np.arange(self.n_tiles) if rows is None else np.asarray(rows, np.intp)
        if len(wanted) and not (0 <= wanted.min() and wanted.max() < self.n_tiles):
            msg = f"{self.path} has {self.n_tiles:,} tiles; rows {wanted.min()} to {wanted.max()} were asked for"
            raise InputValueError(msg)
        # Opened anew for each read: a bag can then be copied to other processes.
        with open_h5(self.path) as file:
            features = self._features(file)
            self._compare(features)
            values = np.empty((len(wanted), self.n_features), np.float32)
            _fill(values, wanted, features)
        bad = wanted[~np.isfinite(values).all(axis=1)]
        if len(bad):
            msg = (
                f"{self.path}: {len(bad):,} of {len(wanted):,} tiles have features that are not "
                f"finite (first: {', '.join(map(str, bad[:3]))}); extract them again"
            )
            raise InputValueError(msg)
        return values

    def _features(self, file: h5py.File) -> h5py.Dataset:
        found = file.get(self._features_key)
        if not isinstance(found, h5py.Dataset):
            msg = f"{self.path} has no dataset {self._features_key!r}; it has {list(file)}"
            raise InputKeyError(msg)
        _check_shape(found, f"{self._features_key!r} of {self.path}")
        check_stored(found, self.path)
        return found

    def _coords(self, file: h5py.File) -> h5py.Dataset:
        coords, place = file[self._coords_key], f"{self._coords_key!r} of {self.path}"
        if not isinstance(coords, h5py.Dataset) or coords.dtype.kind not in "fiu":
            msg = f"{place} are no numbers"
            raise InputTypeError(msg)
        shape = coords.shape[1:] if coords.ndim == 3 and coords.shape[0] == 1 else coords.shape
        if shape != (self.n_tiles, 2):
            msg = (
                f"{place} have the shape {coords.shape}, but there are "
                f"{self.n_tiles:,} tiles; needs ({self.n_tiles}, 2)"
            )
            raise InputValueError(msg)
        check_stored(coords, self.path)
        check_seal(coords, self.path)
        return coords

    def _compare(self, features: h5py.Dataset) -> None:
        """Compare the features with their checksum, once as long as the file stays as it is."""
        if features.shape[-2:] != (self.n_tiles, self.n_features):
            msg = f"{self.path} has changed since it was opened; open it again"
            raise InputValueError(msg)
        status = self.path.stat()
        state = (status.st_ino, status.st_size, status.st_mtime_ns)
        if self._compared != state:
            check_seal(features, self.path)
            self._compared = state


def _check_shape(features: h5py.Dataset, place: str) -> None:
    shape = tuple(features.shape or ())
    if features.dtype.kind not in "fiu":
        msg = f"{place} hold {features.dtype}, not numbers"
        raise InputTypeError(msg)
    if len(shape) != 2 and not (len(shape) == 3 and shape[0] == 1):
        msg = f"{place} have the shape {features.shape}; needs (tiles, features), or (1, tiles, features)"
        raise InputValueError(msg)
    if 0 in shape:
        msg = f"{place} are empty, their shape is {features.shape}; leave the slide out"
        raise InputValueError(msg)


def _fill(values: NDArray[np.float32], wanted: NDArray[np.intp], features: h5py.Dataset) -> None:
    """Copy rows in whatever order, reading the file from front to back in blocks."""
    order = np.argsort(wanted, kind="stable")
    ascending = wanted[order]
    for start in range(0, features.shape[-2], _ROWS_AT_ONCE):
        first, last = np.searchsorted(ascending, (start, start + _ROWS_AT_ONCE))
        if first == last:
            continue
        low, high = ascending[first], ascending[last - 1] + 1
        block = features[low:high] if features.ndim == 2 else features[0, low:high]
        values[order[first:last]] = block[ascending[first:last] - low]


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as values that a table can hold."""
    values = {key: v.decode() if isinstance(v, bytes) else v for key, v in attributes.items()}
    return {
        key: v
        for key, v in values.items()
        if isinstance(v, (str, np.generic, np.ndarray)) and not is_seal(key)
    }
