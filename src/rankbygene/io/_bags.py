"""Feature bags in HDF5: one file per slide, as tools for whole slides exchange them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from rankbygene.errors import InputKeyError, InputTypeError, InputValueError
from rankbygene.io._atomic import atomic_file
from rankbygene.io._tiles import slide_tiles, tiles_of_table

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from spatialdata import SpatialData

__all__ = ["H5Bag", "read_bag_h5", "write_bag_h5"]

_ROWS_AT_ONCE = 4096
_ATTRIBUTES = "h5_attributes"


class H5Bag:
    """The features of a slide's tiles in an HDF5 file, read when they are asked for.

    The layout is that of CLAM :cite:p:`lu2021clam`, TRIDENT :cite:p:`zhang2025trident` and the released code of
    RankByGene: ``features`` ``[n, d]`` or ``[1, n, d]`` and, if the positions are known, ``coords`` ``[n, 2]``, the
    upper left corners of the tiles in pixels of the slide's finest level.

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
        The file is missing, damaged or empty, the features are not numbers in two dimensions, or
        there is not one pair of coordinates per tile.
    InputKeyError
        The file has no features under that name.

    Examples
    --------
    >>> bag = rbg.io.H5Bag("TCGA-A1-A0SB-01Z-00-DX1.h5")  # doctest: +SKIP
    >>> bag.read(np.arange(100)).shape  # doctest: +SKIP
    (100, 1024)
    """

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
        with self._open() as file:
            shape = _shape(self._features(file), f"{features_key!r} of {self.path}")
            self.n_tiles, self.n_features = shape
            self.has_coords = coords_key in file
            if self.has_coords:
                self._check_coords(file[coords_key])
            known = [file, *(file[key] for key in (features_key, coords_key) if key in file)]
            self.attributes = _plain({k: v for item in known for k, v in item.attrs.items()})

    def __repr__(self) -> str:
        return f"H5Bag({self.name!r}, {self.n_tiles:,} tiles, {self.n_features:,} features)"

    @property
    def coords(self) -> NDArray[np.float64] | None:
        """Upper left corners of the tiles, x and y, ``[n, 2]``; None where the file has none."""
        if not self.has_coords:
            return None
        with self._open() as file:
            coords: NDArray[np.float64] = np.asarray(file[self._coords_key], np.float64)
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
        values = np.empty((len(wanted), self.n_features), np.float32)
        with self._open() as file:
            _fill(values, wanted, self._features(file))
        bad = wanted[~np.isfinite(values).all(axis=1)]
        if len(bad):
            msg = (
                f"{self.path}: {len(bad):,} of {len(wanted):,} tiles have features that are not "
                f"finite (first: {', '.join(map(str, bad[:3]))}); extract them again"
            )
            raise InputValueError(msg)
        return values

    # Opened anew for each read: a bag can then be copied to other processes.
    @contextmanager
    def _open(self) -> Iterator[h5py.File]:
        try:
            with h5py.File(self.path, "r") as file:
                yield file
        except OSError as error:
            msg = f"{self.path} cannot be read as HDF5: {error}"
            raise InputValueError(msg) from error

    def _features(self, file: h5py.File) -> h5py.Dataset:
        found = file.get(self._features_key)
        if not isinstance(found, h5py.Dataset):
            msg = f"{self.path} has no dataset {self._features_key!r}; it has {list(file)}"
            raise InputKeyError(msg)
        return found

    def _check_coords(self, coords: h5py.Dataset) -> None:
        shape = coords.shape[1:] if coords.ndim == 3 and coords.shape[0] == 1 else coords.shape
        if shape != (self.n_tiles, 2):
            msg = (
                f"{self._coords_key!r} of {self.path} have the shape {coords.shape}, but there are "
                f"{self.n_tiles:,} tiles; needs ({self.n_tiles}, 2)"
            )
            raise InputValueError(msg)


def read_bag_h5(
    path: str | Path,
    *,
    name: str | None = None,
    feature_key: str = "X_features",
    patch_size: float | None = None,
    um_per_px: float | None = None,
) -> SpatialData:
    """Read a feature bag as tiles on a slide.

    Positions are pixels of the slide's finest level, which is the system ``global`` of
    :func:`read_wsi`: shapes and table can be put beside the image as they are.

    Parameters
    ----------
    path
        File with the layout that :class:`H5Bag` reads, with coordinates.
    name
        Name of the slide; the file's name without its ending by default.
    feature_key
        Key of ``.obsm`` for the features.
    patch_size
        Width of a tile in pixels of the finest level. By default what the file says:
        ``patch_size_level0`` (TRIDENT), or ``patch_size`` and ``downsample`` (CLAM).
    um_per_px
        Micrometres per pixel of the finest level; adds the system ``um``.

    Returns
    -------
    Squares ``<name>_tiles`` and ``table``, which annotates them: features in
    ``.obsm[feature_key]``, centres in ``.obsm["spatial"]``, the attributes of the file in
    ``.uns["h5_attributes"]``. ``X`` has no columns.

    Raises
    ------
    InputKeyError, InputValueError
        As for :class:`H5Bag`; or there are no coordinates, or the width of a tile is unknown.

    Examples
    --------
    >>> slide = rbg.io.read_wsi("S1.svs")  # doctest: +SKIP
    >>> bag = rbg.io.read_bag_h5("S1.h5")  # doctest: +SKIP
    >>> slide["S1_tiles"], slide["features"] = bag["S1_tiles"], bag["table"]  # doctest: +SKIP
    """
    bag = H5Bag(path, name=name)
    corners = bag.coords
    if corners is None:
        msg = f"{bag.path} has no coordinates of its tiles; `rbg.io.H5Bag` reads features alone"
        raise InputValueError(msg)
    side = _written_side(bag) if patch_size is None else float(patch_size)
    return slide_tiles(
        bag.name,
        corners,
        side,
        {feature_key: bag.read()},
        uns={_ATTRIBUTES: bag.attributes},
        um_per_px=um_per_px,
    )


def write_bag_h5(
    sdata: SpatialData,
    path: str | Path,
    *,
    table_key: str = "rankbygene",
    feature_key: str = "X_rankbygene",
    region: str | None = None,
    image_key: str | None = None,
    patch_size: float | None = None,
    overwrite: bool = False,
) -> None:
    """Write the features in a table as a bag that tools for whole slides read.

    Parameters
    ----------
    sdata
        Object with a table whose rows are tiles, as ``model.predict_slide`` makes it.
    path
        The file, such as ``S1.h5``: ``features`` float32 ``[n, d]`` and ``coords`` int64 ``[n, 2]``
        with the attributes by which CLAM and TRIDENT know the size of a tile.
    table_key
        The table.
    feature_key
        Key of ``.obsm`` with the features.
    region
        Which of the table's regions; may be left out when there is one.
    image_key
        Image whose finest level the coordinates count the pixels of; the finest RGB image by
        default. Without any image they count the units of the system ``global``.
    patch_size
        Width of a tile in these pixels; by default that of the squares which the table annotates.
    overwrite
        Replace a file of that name.

    Raises
    ------
    InputKeyError
        There is no such table, region, or key.
    InputValueError
        The tiles are not squares of one size and ``patch_size`` is not given, or the features are
        not finite.
    OutputExistsError
        The file exists and ``overwrite`` is False.
    """
    tiles = tiles_of_table(sdata, table_key, region, image_key, patch_size)
    table = sdata.tables[table_key]
    if feature_key not in table.obsm:
        msg = f"table {table_key!r} has no .obsm[{feature_key!r}]; it has {list(table.obsm)}"
        raise InputKeyError(msg)
    features = np.asarray(table.obsm[feature_key], np.float32)[tiles.rows]
    if features.ndim != 2 or not np.isfinite(features).all():
        msg = (
            f".obsm[{feature_key!r}] of table {table_key!r} must be finite and have two dimensions"
        )
        raise InputValueError(msg)
    side = round(tiles.side)
    attributes = {
        **table.uns.get(_ATTRIBUTES, {}),
        "name": Path(path).stem,
        "patch_size": side,
        "patch_size_level0": side,
        "patch_level": 0,
        "downsample": (1.0, 1.0),
    }
    if tiles.shape is not None:
        attributes["level0_height"], attributes["level0_width"] = tiles.shape
    with (
        atomic_file(Path(path), overwrite=overwrite) as temporary,
        h5py.File(temporary, "w") as file,
    ):
        file["features"] = features
        file["coords"] = np.rint(tiles.centers - tiles.side / 2).astype(np.int64)
        file["coords"].attrs.update(attributes)


def _shape(features: h5py.Dataset, place: str) -> tuple[int, int]:
    shape = tuple(features.shape or ())
    if features.dtype.kind not in "fiu":
        msg = f"{place} hold {features.dtype}, not numbers"
        raise InputTypeError(msg)
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != 2:
        msg = f"{place} have the shape {features.shape}; needs (tiles, features), or (1, tiles, features)"
        raise InputValueError(msg)
    if 0 in shape:
        msg = f"{place} are empty, their shape is {features.shape}; leave the slide out"
        raise InputValueError(msg)
    return shape


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


def _written_side(bag: H5Bag) -> float:
    """Width of a tile in pixels of the finest level, from the attributes of CLAM or TRIDENT."""
    known = bag.attributes
    if "patch_size_level0" in known:
        return float(known["patch_size_level0"])
    # Older files of CLAM also shrank what they had read, in units that differ between versions.
    plain = float(known.get("custom_downsample", 1)) == 1
    factor = 1.0 if known.get("patch_level") == 0 else known.get("downsample")
    if plain and "patch_size" in known and factor is not None:
        return float(known["patch_size"]) * float(np.mean(factor))
    msg = (
        f"{bag.path} does not say how wide its tiles are (attributes: {sorted(known) or 'none'}); "
        "pass patch_size=... in pixels of the slide's finest level"
    )
    raise InputValueError(msg)


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as values that a table can hold."""
    values = {key: v.decode() if isinstance(v, bytes) else v for key, v in attributes.items()}
    return {key: v for key, v in values.items() if isinstance(v, (str, np.generic, np.ndarray))}
