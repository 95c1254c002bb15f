"""Predictions of large slides: part by part to disk, by one process or several."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import anndata.io
import dask.array as da
import numpy as np
import zarr
from filelock import FileLock, Timeout
from spatialdata import SpatialData

from rankbygene._atomic import atomic_directory, check_free, fill_store, settle
from rankbygene._keys import Keys
from rankbygene.base._inference import (
    BATCH_SIZE,
    Precision,
    choose_precision,
    finite,
    run_over_tiles,
)
from rankbygene.base._record import package_versions, plain
from rankbygene.base.spots._record import model_record, provenance
from rankbygene.base.spots._slide import slide_table
from rankbygene.base.spots._surroundings import CONTEXT_FEATURES, Around, Combination
from rankbygene.data import TileReader
from rankbygene.data._fingerprint import fingerprint_frame, hash_texts
from rankbygene.errors import InputValueError
from rankbygene.io._parts import Parts, write_array
from rankbygene.nn.encoders._weights import hash_weights

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from rankbygene.base.spots._context import Context
    from rankbygene.base.spots._state import ModelState
    from rankbygene.data import SpotFrame

# Spots of a part: their tiles at 224 px take 150 MB.
PART_SIZE = 1024


def predict_to_store(
    model: ModelState,
    frame: SpotFrame,
    element: Any,
    out: Path,
    *,
    table_key: str,
    shard: tuple[int, int] | None,
    overwrite: bool,
    precision: Precision,
) -> None:
    """Predict the spots of a frame, or a share of them, and write a store when all are there.

    Parameters
    ----------
    model
        A trained model.
    frame
        The spots.
    element
        Shapes or labels that the spots are.
    out
        The store.
    table_key
        Name of the table in it.
    shard
        Share of the parts to compute, ``(i, n)``; None takes what ``torchrun`` says, or all.
    overwrite
        Replace a store that is there.
    precision
        Of the network.
    """
    index, n_shards = _checked(shard or launched())
    place = out.with_name(f"{out.name}.parts")
    settle(place)
    if _has_no_part(index, n_shards, frame.n_obs):
        return
    check_free(out, overwrite)
    frame = frame.take(tile_reader(model, frame).reading_order())
    reader = tile_reader(model, frame)
    parts = Parts(
        place,
        _job(model, frame, reader, table_key)
        | {"precision": choose_precision(precision, model.device)},
        n_rows=frame.n_obs,
        part_size=PART_SIZE,
    )
    own = np.array_split(np.arange(len(parts)), n_shards)[index].tolist()
    waiting = [part for part in own if not parts.is_done(part)]
    _compute(model, reader, parts, waiting, precision)
    if parts.is_complete():
        _assemble(
            model,
            frame,
            element,
            parts,
            out,
            table_key=table_key,
            overwrite=overwrite,
            precision=precision,
        )


def tile_reader(model: ModelState, frame: SpotFrame) -> TileReader:
    """Read the tiles of a slide as a model sees them."""
    return TileReader(frame, tile_um=model.tile_widths, tile_px=model.tile_px)


def tile_by_tile(
    model: ModelState, context: Context
) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    """Give what is computed of each tile by itself: what the method says, and what is kept of it."""

    def forward(images: torch.Tensor) -> dict[str, torch.Tensor]:
        found = model._apply(images)
        if CONTEXT_FEATURES not in found:
            found[CONTEXT_FEATURES] = model.module.encode_context(images)
        return found

    return forward if context.keeps else model._apply


def _checked(shard: tuple[int, int]) -> tuple[int, int]:
    index, n_shards = shard
    if not 0 <= index < n_shards:
        msg = f"shard={shard} is no share; pass (i, n) with 0 <= i < n, such as (0, 4)"
        raise InputValueError(msg)
    return index, n_shards


def _has_no_part(index: int, n_shards: int, n_rows: int) -> bool:
    """Whether a share is empty, since there are more shares than parts; it has nothing to do or to say.

    The first shares get the parts.
    """
    return 0 < -(-n_rows // PART_SIZE) <= index < n_shards


def launched() -> tuple[int, int]:
    """Rank and number of processes, as ``torchrun`` tells them."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def _job(model: ModelState, frame: SpotFrame, reader: TileReader, table: str) -> dict[str, Any]:
    """Describe what is computed, so that parts of something else are not taken for it."""
    levels = [plan.level for plan in reader.plans]
    return {
        "method": model.method,
        "model": _model_digests(model),
        "genes": list(model.genes),
        "table": table,
        "region": frame.region,
        "image": frame.image_key,
        "tile": [[plan.level, plan.side, plan.tile_px, *plan.shape] for plan in reader.plans],
        "slide": {
            **fingerprint_frame(frame, levels=levels, counts=False),
            "windows": _digest(*(line for plan in reader.plans for line in (plan.x0, plan.y0))),
            "instances": _digest(hash_texts(frame.instances)),
        },
        "versions": package_versions(),
    }


def _model_digests(model: ModelState) -> dict[str, str]:
    """Tell a model by all that its predictions depend on, beside its networks the statistics layer."""
    record = plain(model_record(model))
    settings = {
        key: record[key]
        for key in ("class", "backbone", "tile", "normalization", "module", "statistics")
    }
    text = json.dumps(settings, sort_keys=True, default=str)
    return {
        "weights": hash_weights(model.module),
        "settings": hashlib.sha256(text.encode()).hexdigest(),
    }


def _digest(*arrays: NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _compute(
    model: ModelState, reader: TileReader, parts: Parts, wanted: list[int], precision: Precision
) -> None:
    """Apply the network to every tile of some parts.

    A part is computed by itself, so that its numbers do not depend on who computes which others.
    """
    model.module.eval()
    for part, tiles in _tiles_of_parts(reader, parts, wanted):
        values = run_over_tiles(
            tile_by_tile(model, model._context(None)),
            [(np.arange(len(tiles)), tiles)],
            len(tiles),
            device=model.device,
            batch_size=BATCH_SIZE,
            precision=precision,
        )
        parts.write(part, values)


def _tiles_of_parts(
    reader: TileReader, parts: Parts, wanted: Iterable[int]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Read the tiles of parts in one pass over the image, and hand each part over once it is whole."""
    slices = [np.arange(rows.start, rows.stop) for rows in map(parts.rows, wanted)]
    if not slices:
        return
    begun: dict[int, tuple[NDArray[np.uint8], int]] = {}
    for rows, tiles in reader.stream(np.concatenate(slices)):
        part_of_row = rows // parts.part_size
        for part in np.unique(part_of_row).tolist():
            own, inside = parts.rows(part), part_of_row == part
            size = own.stop - own.start
            held, n_found = begun.get(part) or (np.empty((size, *tiles.shape[1:]), np.uint8), 0)
            held[rows[inside] - own.start] = tiles[inside]
            begun[part] = held, n_found + int(inside.sum())
            if begun[part][1] == size:
                yield part, begun.pop(part)[0]


def _assemble(
    model: ModelState,
    frame: SpotFrame,
    element: Any,
    parts: Parts,
    out: Path,
    *,
    table_key: str,
    overwrite: bool,
    precision: Precision,
) -> None:
    """Write the store from all parts, unless another process is at it, and remove the parts."""
    lock = FileLock(f"{parts.folder}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return
    try:
        if not parts.folder.exists():  # another process was quicker
            return
        table = slide_table(
            frame,
            expression=None,
            latent=np.empty((frame.n_obs, 0), np.float32) if "latent" in model.gives else None,
            genes=model.genes if "expression" in model.gives else (),
            keys=Keys(model.method),
            params=provenance(model, [frame], precision),
        )
        slide = SpatialData.init_from_elements({frame.region: element, table_key: table})
        with atomic_directory(out, overwrite=overwrite) as folder:
            fill_store(slide, folder)
            _fill_table(model, frame, parts, folder, table_key)
        parts.remove()
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def _fill_table(
    model: ModelState, frame: SpotFrame, parts: Parts, store: Path, table_key: str
) -> None:
    """Write the large arrays, of which only some parts are in memory at a time."""
    root: Any = zarr.open_group(store, mode="r+", use_consolidated=False)
    group = root[f"tables/{table_key}"]
    places = {"expression": (group, "X"), "latent": (group["obsm"], Keys(model.method).latent)}
    with TemporaryDirectory(prefix="results-", dir=store) as folder:
        read = _reader_of_results(model, frame, parts, Path(folder))
        for what, (place, name) in places.items():
            if what not in model.gives:
                continue
            array = _lazy(parts, read(what, 0).shape[1], partial(read, what))
            # In chunks of other heights every part would decode and encode its neighbours' again.
            chunks = {"chunks": (min(parts.part_size, len(array)), array.shape[1])}
            anndata.io.write_elem(place, name, array, dataset_kwargs=chunks)
    with warnings.catch_warnings():
        # The files of shapes are no arrays.
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(root.store)


def _reader_of_results(
    model: ModelState, frame: SpotFrame, parts: Parts, folder: Path
) -> Callable[[str, int], NDArray[np.float32]]:
    """Give what reads a result of a part: as it was written, or put together from what was, once."""
    context = model._context(None)
    if not context.looks_around:
        return lambda name, part: parts.read(name, _rows_of(parts, part))
    combined = Combination(model, Around(frame, context), parts.names(), parts.read)

    def read(name: str, part: int) -> NDArray[np.float32]:
        if not (folder / f"{name}-{part}.npy").exists():
            found = finite(combined(_rows_of(parts, part)), frame.slide)
            for one in found:
                write_array(folder / f"{one}-{part}.npy", found[one])
        values: NDArray[np.float32] = np.load(folder / f"{name}-{part}.npy")
        return values

    return read


def _rows_of(parts: Parts, part: int) -> NDArray[np.intp]:
    return np.arange(parts.rows(part).start, parts.rows(part).stop)


def _lazy(parts: Parts, width: int, read: Callable[[int], Any]) -> da.Array:
    """Float32 array ``[n_rows, width]`` with one chunk per part, each read when it is written."""

    def block(block_info: Any = None) -> Any:
        return read(block_info[None]["chunk-location"][0])

    heights = tuple(parts.rows(part).stop - parts.rows(part).start for part in range(len(parts)))
    # Without a block to look at, dask would call `read` for an example.
    array: da.Array = da.map_blocks(  # type: ignore[no-untyped-call]
        block, chunks=(heights, (width,)), dtype=np.float32, meta=np.empty((0, 0), np.float32)
    )
    return array
