"""Feature bags in HDF5 to and from SpatialData: one file per slide, as tools for whole slides have them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from rankbygene._arguments import checked
from rankbygene._atomic import atomic_file
from rankbygene.errors import InputKeyError, InputValueError
from rankbygene.io._h5 import H5Bag
from rankbygene.io._hdf5 import seal
from rankbygene.io._tiles import slide_tiles, tiles_of_table

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = ["read_bag_h5", "write_bag_h5"]

_ATTRIBUTES = "h5_attributes"


@checked
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


@checked
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
        with the attributes by which CLAM and TRIDENT know the size of a tile, and a checksum of each.
    table_key
        The table.
    feature_key
        Key of ``.obsm`` with the features.
    region
        Which of the table's regions; may be left out when there is one.
    image_key
        Image whose finest level the coordinates count the pixels of; the only RGB image by
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
        # Since this version names, shapes and places in the file have checksums of HDF5's own.
        h5py.File(temporary, "w", libver=("v110", "v110")) as file,
    ):
        file["features"] = features
        file["coords"] = np.rint(tiles.centers - tiles.side / 2).astype(np.int64)
        file["coords"].attrs.update({key: _in_place(v) for key, v in attributes.items()})
        for name in ("features", "coords"):
            seal(file[name])


def _in_place(value: Any) -> Any:
    """Texts at a fixed length: HDF5 keeps others in a heap without checksums, where a flipped bit may hang it."""
    return np.bytes_(value.encode() or b" ") if isinstance(value, str) else value


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
