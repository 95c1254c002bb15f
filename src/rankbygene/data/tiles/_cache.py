"""Tiles that were cut once, kept in files that processes and sessions share."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import secrets
import shutil
import warnings
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rankbygene.data._fingerprint import fingerprint_pixels
from rankbygene.data.slides._groups import compact_groups
from rankbygene.data.slides._images import level_to_system
from rankbygene.errors import InputValueError, OutputExistsError

if TYPE_CHECKING:
    from rankbygene.data.slides._frame import SpotFrame
    from rankbygene.data.tiles._tiles import TileReader

logger = logging.getLogger("rankbygene")

CACHE_FORMAT = 2
# Room left on the disk for others.
_SPARE_BYTES = 1 << 28
# Spots of a compact group, whose tiles lie side by side in the file.
_GROUP = 64
_CHECKED_AT_ONCE = 1 << 26


class _DamagedError(OSError):
    """A file of the cache is not what was written."""


def cached_tiles(
    folder: Path, frame: SpotFrame, reader: TileReader, *, limit: int, kept: bool = True
) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Give the tiles of a slide as a read-only memory map, cutting them if that was not done yet.

    There is one file per slide, named after its image and after a hash of all that its tiles depend
    on: every pixel of the level, the transformation, the windows, and the order in which tiles lie in
    the file. It is an array of NumPy, followed by a record with its checksum. It appears complete
    or not at all; of two processes that write it at once, the second takes the file of the first.

    Every opening decodes the level of the image once, and reads the whole file and compares the
    checksum. A damaged file is written anew with a warning: it holds nothing that the image does not
    hold.

    Parameters
    ----------
    folder
        Where the files are.
    frame, reader
        The slide.
    limit
        Bytes that the files of the folder may take.
    kept
        Whether files may be there from earlier, or stay for later; only then the image is looked at
        to tell them apart.

    Returns
    -------
    Tiles ``[n, *tile_shape]``, neighbours in tissue side by side, and the place of each spot's tile
    among them, ``[n]``.

    Raises
    ------
    InputValueError
        There is no room.
    """
    # Imported here because reading and writing builds on this folder.
    from rankbygene._atomic import atomic_file, check_regular, settle

    # By the windows, which the key holds: spots that move by less than a pixel keep their places.
    corners = np.column_stack([reader.plan.x0, reader.plan.y0]).astype(np.float64)
    order = np.concatenate(compact_groups(corners, _GROUP))
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    key = _key(frame, reader, order) if kept else secrets.token_hex(12)
    path = folder / f"{frame.image_key}-{key}.npy"
    shape = (frame.n_obs, *reader.tile_shape)
    damaged = False
    settle(path)  # a process may have been killed after its file was complete
    check_regular(path)
    if path.exists():
        try:
            return _opened(path, shape, key), places
        except _DamagedError as error:
            damaged = True
            warnings.warn(f"{error}; its tiles are cut again", UserWarning, stacklevel=2)
    folder.mkdir(parents=True, exist_ok=True)
    _check_room(folder, math.prod(shape), limit, besides=path)
    logger.info("cutting the tiles of slide %r into %s", frame.slide, path)
    try:
        with atomic_file(path, overwrite=damaged) as file:
            _write(file, reader, shape, places, key)
    except OutputExistsError:
        logger.info("another process has written %s meanwhile; its tiles are used", path)
    return _opened(path, shape, key), places


def _key(frame: SpotFrame, reader: TileReader, order: NDArray[np.intp]) -> str:
    """Hash all that the tiles depend on."""
    digest = hashlib.blake2b(digest_size=12)
    image = frame.sdata.images[frame.image_key]
    for plan, level in zip(reader.plans, reader.levels, strict=True):
        described: dict[str, Any] = asdict(plan)
        windows = [described.pop(name) for name in ("x0", "y0")]
        matrix = level_to_system(image, plan.level, frame.coordinate_system)
        described |= {"format": CACHE_FORMAT, "level_shape": level.shape}
        digest.update(json.dumps(described, sort_keys=True).encode())
        for array in (*windows, matrix, fingerprint_pixels(image, plan.level)):
            digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(order.tobytes())
    return digest.hexdigest()


def _write(
    file: Path, reader: TileReader, shape: tuple[int, ...], places: NDArray[np.intp], key: str
) -> None:
    tiles = np.lib.format.open_memmap(file, "w+", np.uint8, shape)
    for rows, cut in reader.stream():
        tiles[places[rows]] = cut
    tiles.flush()
    with file.open("ab") as handle:
        handle.write(json.dumps({"key": key, "crc32": _checksum(tiles)}).encode())


def _opened(path: Path, shape: tuple[int, ...], key: str) -> NDArray[np.uint8]:
    """Map a file after comparing it with the record at its end."""
    try:
        tiles: np.memmap[Any, np.dtype[np.uint8]] = np.load(path, mmap_mode="r")
        with path.open("rb") as handle:
            handle.seek(tiles.offset + tiles.nbytes)
            record = json.loads(handle.read())
    # NumPy hands on what the parser of its headers raises, which is of many kinds.
    except Exception as error:
        msg = f"{path} is damaged ({error})"
        raise _DamagedError(msg) from error
    found = (tiles.shape, tiles.dtype, record)
    if found != (shape, np.dtype(np.uint8), {"key": key, "crc32": _checksum(tiles)}):
        msg = f"{path} is damaged (its contents and the record at its end differ)"
        raise _DamagedError(msg)
    return tiles


def _checksum(tiles: NDArray[np.uint8]) -> int:
    flat, value = tiles.reshape(-1), 0
    for start in range(0, len(flat), _CHECKED_AT_ONCE):
        value = zlib.crc32(flat[start : start + _CHECKED_AT_ONCE].data, value)
    return value


def _check_room(folder: Path, n_bytes: int, limit: int, *, besides: Path) -> None:
    taken = sum(path.stat().st_size for path in folder.glob("*.npy") if path != besides)
    if taken + n_bytes > limit:
        msg = (
            f"the tiles take {n_bytes / 2**30:.1f} GiB; with the {taken / 2**30:.1f} GiB that are in "
            f"{folder} that is more than its limit of {limit / 2**30:.1f} GiB. Delete files in it "
            "that are no longer needed, or pass another cache_dir, a larger cache_limit, a smaller "
            "tile_px, or fewer spots"
        )
        raise InputValueError(msg)
    free = shutil.disk_usage(folder).free
    if free < n_bytes + _SPARE_BYTES:
        msg = (
            f"the tiles take {n_bytes / 2**30:.1f} GiB, and {folder} has {free / 2**30:.1f} GiB "
            "free; pass cache_dir=... on a larger disk, a larger memory_limit, a smaller tile_px, "
            "or fewer spots"
        )
        raise InputValueError(msg)
