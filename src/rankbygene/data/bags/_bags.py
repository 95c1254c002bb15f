"""Bags: a slide as a set of tile features, wherever they are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rankbygene._arguments import checked, checked_fields
from rankbygene._checks import check_places, check_sdata
from rankbygene._keys import Keys
from rankbygene.data.counts._counts import layer_names
from rankbygene.data.counts._matrix import read_matrix
from rankbygene.data.slides._annotation import read_annotation, region_rows
from rankbygene.errors import InputKeyError, InputValueError

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

__all__ = [
    "ArrayBag",
    "Bag",
    "BagSetup",
    "PooledBag",
    "TableBag",
    "bags_of",
    "read_tiles",
    "stream",
]

TILES_AT_ONCE = 4096


@runtime_checkable
class Bag(Protocol):
    """A slide as a set of tile features.

    Anything with these four names is a bag: features in a table (:class:`TableBag`), in memory
    (:class:`ArrayBag`) or in a file. Features are read when they are needed, in whole or by rows.

    Attributes
    ----------
    name
        Name of the slide.
    n_tiles, n_features
        Shape of the features.
    """

    @property
    def name(self) -> str: ...

    @property
    def n_tiles(self) -> int: ...

    @property
    def n_features(self) -> int: ...

    def read(self, rows: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
        """Read the features of all tiles, or of some: ``[n, n_features]``."""
        ...


@checked_fields
@dataclass(frozen=True, eq=False)
class ArrayBag:
    """A bag in memory.

    Parameters
    ----------
    name
        Name of the slide.
    features
        ``[n_tiles, n_features]``; a memory map stays on disk.
    coords
        Positions of the tiles, ``[n_tiles, 2]``; only pictures need them.

    Raises
    ------
    InputValueError
        The features are no matrix, or there is not one position per tile.
    """

    name: str
    features: NDArray[np.float32]
    coords: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if self.features.ndim != 2:
            msg = f"bag {self.name!r}: features have the shape {self.features.shape}; [tiles, features] is needed"
            raise InputValueError(msg)
        if self.coords is not None and self.coords.shape != (self.n_tiles, 2):
            msg = (
                f"bag {self.name!r}: coords have the shape {self.coords.shape}; "
                f"({self.n_tiles}, 2) is needed, one position per tile"
            )
            raise InputValueError(msg)

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return int(self.features.shape[0])

    @property
    def n_features(self) -> int:
        """Number of features."""
        return int(self.features.shape[1])

    @checked
    def read(self, rows: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
        """Read the features of all tiles, or of some: ``[n, n_features]``."""
        if rows is None:
            return np.asarray(self.features, np.float32)
        return np.asarray(self.features[check_places(rows, self.n_tiles)], np.float32)


@checked_fields
@dataclass(frozen=True)
class BagSetup:
    """Where the features of a slide's tiles are found in a SpatialData object.

    Parameters
    ----------
    table_key
        Table with one row per tile.
    feature_key
        Key in ``.obsm`` with the features; used where ``layer`` is None.
    layer
        Layer to take as features instead, such as predicted expression; ``"X"`` is the table's
        own matrix. Columns are matched by gene.
    genes
        Columns of the layer. By default those that ``.var`` marks as predicted under the layer's
        name, or all.
    """

    table_key: str = "table"
    feature_key: str = "X_rankbygene"
    layer: str | None = None
    genes: tuple[str, ...] | None = None


# Keyed by identity and weak: the user's object gets no extra key, and is freed when the user drops it.
_DECLARED: WeakKeyDictionary[SpatialData, BagSetup] = WeakKeyDictionary()


def declare_features(sdata: SpatialData, setup: BagSetup) -> None:
    """Remember, beside the object, where the features of its tiles are."""
    _DECLARED[sdata] = setup


def declared_features(sdata: SpatialData, *, default: BagSetup = BagSetup()) -> BagSetup:
    """Return what was declared for an object, or ``default``."""
    return _DECLARED.get(sdata, default)


@checked_fields
@dataclass(frozen=True, eq=False)
class TableBag:
    """Features in a table of a SpatialData object; nothing is copied until it is read.

    Parameters
    ----------
    name
        Name of the slide.
    sdata
        The object; it is not changed.
    setup
        Where in it the features are.
    region
        Region of the table that the slide is. May be left out when there is one.

    Raises
    ------
    InputKeyError
        The table, its region, the features or a gene do not exist.
    InputValueError
        The table annotates nothing, or has several regions and none was named.
    """

    name: str
    sdata: SpatialData = field(repr=False)
    setup: BagSetup = BagSetup()
    region: str | None = None

    def __post_init__(self) -> None:
        check_sdata(self.sdata)
        self._check_features()
        _ = self.rows, self.genes, self._columns

    @property
    def table(self) -> AnnData:
        """The table that holds the features."""
        return self.sdata.tables[self.setup.table_key]

    @cached_property
    def rows(self) -> NDArray[np.intp]:
        """Rows of the table that are tiles of the slide."""
        annotation = read_annotation(self.sdata, self.setup.table_key)
        if self.region is not None and self.region not in annotation.regions:
            msg = f"the table has no region {self.region!r}; it has {annotation.regions}"
            raise InputKeyError(msg)
        if self.region is None and len(annotation.regions) > 1:
            msg = f"the table has several regions; pass region=... (one of {annotation.regions})"
            raise InputValueError(msg)
        return region_rows(annotation, self.region or annotation.regions[0])

    @cached_property
    def genes(self) -> tuple[str, ...] | None:
        """Genes that are the features, where they come from a layer."""
        if self.setup.layer is None or self.setup.genes is not None:
            return self.setup.genes
        panel = Keys(self.setup.layer).panel
        names = self.table.var_names
        chosen = names[self.table.var[panel].to_numpy(bool)] if panel in self.table.var else names
        return tuple(chosen.astype(str))

    @cached_property
    def _columns(self) -> NDArray[np.intp] | None:
        if self.setup.layer is None:
            return None
        columns = self.table.var_names.get_indexer(list(self.genes or ()))
        missing = [g for g, c in zip(self.genes or (), columns, strict=True) if c < 0]
        if missing:
            msg = f"slide {self.name!r}: {len(missing)} genes are not in the table ({missing[:5]})"
            raise InputKeyError(msg)
        return np.asarray(columns, np.intp)

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return len(self.rows)

    @property
    def n_features(self) -> int:
        """Number of features."""
        return int(self._matrix.shape[1]) if self._columns is None else len(self._columns)

    @checked
    def read(self, rows: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
        """Read the features of all tiles, or of some: ``[n, n_features]``."""
        chosen = self.rows if rows is None else self.rows[rows]
        matrix = self._matrix
        values: Any = (
            matrix.iloc[chosen].to_numpy()
            if isinstance(matrix, pd.DataFrame)
            else read_matrix(matrix, chosen)
        )
        if self._columns is not None:
            values = values[:, self._columns]
        return np.asarray(values.toarray() if hasattr(values, "toarray") else values, np.float32)

    @property
    def _matrix(self) -> Any:
        if self.setup.layer is None:
            return self.table.obsm[self.setup.feature_key]
        return self.table.X if self.setup.layer == "X" else self.table.layers[self.setup.layer]

    def _check_features(self) -> None:
        setup = self.setup
        if setup.table_key not in self.sdata.tables:
            msg = (
                f"slide {self.name!r}: there is no table {setup.table_key!r}; "
                f"the tables are {list(self.sdata.tables)}"
            )
            raise InputKeyError(msg)
        if setup.layer is None and setup.feature_key not in self.table.obsm:
            msg = (
                f"slide {self.name!r}: table {setup.table_key!r} has no .obsm[{setup.feature_key!r}]; "
                f"it has {list(self.table.obsm)}. Represent its tiles first (`model.annotate`), or say where they "
                "are with feature_key=... or layer=... of the model or of `BagSetup`; for slides that a model "
                "was not made of, with its `setup_spatialdata`"
            )
            raise InputKeyError(msg)
        if setup.layer not in (None, "X") and setup.layer not in self.table.layers:
            msg = (
                f"slide {self.name!r}: table {setup.table_key!r} has no layer {setup.layer!r}; "
                f"it has {layer_names(self.table)}"
            )
            raise InputKeyError(msg)


@checked_fields
@dataclass(frozen=True, eq=False)
class PooledBag:
    """Several bags read as one: all slides of a patient.

    Parameters
    ----------
    name
        Name of the whole, such as the patient.
    bags
        The parts; their tiles follow each other.
    """

    name: str
    bags: Sequence[Bag]

    @property
    def n_tiles(self) -> int:
        """Number of tiles of all parts."""
        return sum(bag.n_tiles for bag in self.bags)

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.bags[0].n_features

    @checked
    def read(self, rows: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
        """Read the features of all tiles, or of some, in the order of ``rows``."""
        if rows is None:
            return np.concatenate([read_tiles(bag) for bag in self.bags])
        values = np.empty((len(rows), self.n_features), np.float32)
        start = 0
        for bag in self.bags:
            own = (rows >= start) & (rows < start + bag.n_tiles)
            if own.any():
                values[own] = read_tiles(bag, rows[own] - start)
            start += bag.n_tiles
        return values


def bags_of(
    slides: SpatialData | Bag, setup: BagSetup = BagSetup(), *, name: str | None = None
) -> list[Bag]:
    """Read an object as bags: one per region of its table, or the bag that it is.

    Parameters
    ----------
    slides
        SpatialData or a bag.
    setup
        Where features are found in SpatialData.
    name
        Name of the slide, by default the region's. With several regions it is ``name-region``.

    Raises
    ------
    InputTypeError, InputKeyError, InputValueError
        As for :class:`TableBag`.
    """
    if isinstance(slides, Bag):
        return [slides]
    check_sdata(slides)
    regions = read_annotation(slides, setup.table_key).regions
    several = len(regions) > 1
    return [
        TableBag(
            region if name is None else f"{name}-{region}" if several else name,
            slides,
            setup,
            region,
        )
        for region in regions
    ]


@checked
def read_tiles(bag: Bag, rows: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
    """Read features and check them.

    Raises
    ------
    InputValueError
        The bag cannot be read, is empty, has another shape than it says, or holds values that
        are not finite. The text names it.
    """
    try:
        values = np.asarray(bag.read(rows), np.float32)
        expected = (bag.n_tiles if rows is None else len(rows), bag.n_features)
    # Whatever keeps the bag: any class may be one.
    except Exception as error:
        msg = f"slide {bag.name!r} cannot be read: {error}"
        raise InputValueError(msg) from error
    if not expected[0]:
        msg = f"slide {bag.name!r} has no tiles; leave it out"
        raise InputValueError(msg)
    if values.shape != expected:
        msg = f"slide {bag.name!r} has features of shape {values.shape} where {expected} were expected"
        raise InputValueError(msg)
    if not np.isfinite(values).all():
        n_bad = int((~np.isfinite(values)).any(1).sum())
        msg = (
            f"slide {bag.name!r} has {n_bad:,} of {len(values):,} tiles read with NaN or infinite "
            "features; compute them again or drop these tiles"
        )
        raise InputValueError(msg)
    return values


def stream(bag: Bag, size: int = TILES_AT_ONCE) -> Iterator[NDArray[np.float32]]:
    """Read a bag in blocks of ``size`` tiles, checked as by :func:`read_tiles`."""
    if bag.n_tiles <= size:
        yield read_tiles(bag)
        return
    for start in range(0, bag.n_tiles, size):
        yield read_tiles(bag, np.arange(start, min(start + size, bag.n_tiles)))
