"""Decoding the chunks of an image, each of them once."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
from dask import threaded
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from zarr.storage import FsspecStore

from rankbygene._reading import unreadable
from rankbygene.data.slides._stored import StoredImage

Position: TypeAlias = tuple[int, int]
Chunk: TypeAlias = tuple[Position, NDArray[np.uint8]]
Graph: TypeAlias = Mapping[Hashable, Any]
Links: TypeAlias = Mapping[Hashable, Iterable[Hashable]]

# Decoded chunks that may be held together, in bytes.
_HELD_BYTES = 1 << 30
# Chunks that a thread reads in one go, in bytes; handing over each small one would cost as much as
# decoding it.
_READ_BYTES = 1 << 22
# Threads that wait for another machine take no processor.
_REMOTE_WORKERS = 16


def decode_chunks(
    level: da.Array, positions: Iterable[Position], *, workers: int
) -> Iterator[Chunk]:
    """Decode chunks in a few threads and hand them over in row-major order.

    Chunks of the array need not be chunks of the store: a reader may load a whole file and cut it
    afterwards. Chunks that hang on the same read are therefore computed in one go, as far as a
    gigabyte holds them, so that nothing is read twice.

    Parameters
    ----------
    level
        Array ``(c, y, x)``; its channels are brought together whatever their chunks.
    positions
        Row and column of the chunks to decode.
    workers
        Number of threads, and of independent chunks held at a time; more where a store of fsspec is
        read.

    Yields
    ------
    Position and pixels ``[c, height, width]`` of each chunk.
    """
    size = level.shape[0] * level.chunksize[1] * level.chunksize[2]
    held, ordered = max(1, _HELD_BYTES // size), sorted(positions)
    stored = StoredImage.behind(level)
    if stored is None:
        yield from _compute(level, ordered, workers, held)
    else:
        yield from _read(stored, ordered, min(workers, held), max(1, _READ_BYTES // size))


def _read(
    stored: StoredImage, positions: Sequence[Position], workers: int, at_once: int
) -> Iterator[Chunk]:
    """Read chunks from their files, ``at_once`` in each thread."""

    def read(some: Sequence[Position]) -> list[Chunk]:
        with unreadable(_damaged):
            return [(position, stored.read(position)) for position in some]

    ahead: deque[Future[list[Chunk]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(positions), at_once):
            if len(ahead) == workers:
                yield from ahead.popleft().result()
            ahead.append(pool.submit(read, positions[start : start + at_once]))
        for chunks in ahead:
            yield from chunks.result()


def _compute(
    level: da.Array, positions: Iterable[Position], workers: int, held: int
) -> Iterator[Chunk]:
    """Compute chunks with dask, those that share work together."""
    array: Any = level
    array = array.rechunk({0: -1})
    links = array.dask.get_all_dependencies()
    keys = [(array.name, 0, *position) for position in positions]
    graph = _needed(dict(array.dask), links, keys)
    if any(isinstance(getattr(node, "store", None), FsspecStore) for node in graph.values()):
        workers = max(workers, _REMOTE_WORKERS)
    for batch in _batches(_units(graph, links, keys), at_once=min(workers, held), at_most=held):
        # Whatever reads the file behind the array, and whatever was mapped over it.
        with unreadable(_damaged):
            blocks = threaded.get(_needed(graph, links, batch), batch, num_workers=workers)
        for key, block in zip(batch, blocks, strict=True):
            yield (key[2], key[3]), block


def _damaged(said: str) -> str:
    return f"pixels of the image cannot be read ({said}); its file is damaged or gone"


def _needed(graph: Graph, links: Links, keys: Sequence[Hashable]) -> Graph:
    """Return the part of a graph that the keys hang on."""
    waiting, needed = list(keys), {key: graph[key] for key in keys}
    while waiting:
        for key in links[waiting.pop()]:
            if key not in needed:
                needed[key] = graph[key]
                waiting.append(key)
    return needed


def _units(graph: Graph, links: Links, keys: Sequence[Any]) -> list[list[Any]]:
    """Group keys that share work, in the order of the first of each group."""
    index = {key: i for i, key in enumerate(graph)}
    # What is shared as plain data, such as the array of a store, costs nothing to share.
    work = {key for key, node in graph.items() if callable(node) or isinstance(node, tuple)}
    edges = [(index[key], index[link]) for key in work for link in links[key] if link in work]
    ends = np.array(edges, dtype=np.intp).reshape(-1, 2).T
    size = len(index)
    adjacency = coo_array((np.ones(ends.shape[1]), (ends[0], ends[1])), shape=(size, size))
    _, component = connected_components(adjacency, directed=False)
    units: dict[int, list[Any]] = {}
    for key in keys:
        units.setdefault(int(component[index[key]]), []).append(key)
    return list(units.values())


def _batches(units: Iterable[list[Any]], *, at_once: int, at_most: int) -> Iterator[list[Any]]:
    """Fill batches with ``at_once`` keys; a larger unit stays whole up to ``at_most`` keys."""
    batch: list[Any] = []
    for unit in units:
        if batch and len(batch) + len(unit) > at_once:
            yield batch
            batch = []
        batch = batch + unit
        while len(batch) > at_most:
            yield batch[:at_most]
            batch = batch[at_most:]
    if batch:
        yield batch
