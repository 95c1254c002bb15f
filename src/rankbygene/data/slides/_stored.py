"""Reading the chunks of an image straight from the files of a local zarr store.

zarr reads through an event loop, and dask schedules every chunk; with chunks of 256 px that takes
three times as long as decoding. Files of a plain array need neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dask.array as da
import numcodecs
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from rankbygene.errors import InputValueError

# Compressors of zarr format 3 whose output says how to undo it, named as numcodecs names them.
_COMPRESSORS = {"zstd", "blosc", "gzip"}


class StoredImage:
    """The files behind an image that dask reads, unchanged, from a local zarr store.

    Parameters
    ----------
    source
        Array ``(c, y, x)`` of unsigned bytes.
    codecs
        What decodes a file, in order.
    """

    def __init__(self, source: zarr.Array[Any], codecs: Sequence[Any]) -> None:
        self._source, self._codecs = source, codecs
        store: Any = source.store
        self._folder = Path(store.root) / source.path

    @classmethod
    def behind(cls, level: da.Array) -> StoredImage | None:
        """Find the files, None if reading them needs zarr or dask.

        That is so for images that are computed, lie in memory, in an archive or on another
        machine, are sharded, or are encoded in ways other than the usual ones.
        """
        layers = getattr(level.dask, "layers", {})  # other kinds of graphs have none
        origin = f"original-{level.name}"
        # The name says that the array is what da.from_zarr gave, and nothing came after.
        if not level.name.startswith("from-zarr-") or set(layers) != {level.name, origin}:
            return None
        source = layers[origin].get(origin)
        plain = (
            isinstance(source, zarr.Array)
            and type(source.store) is LocalStore
            and source.dtype == np.uint8
            and level.dtype == np.uint8
            and level.chunks == _tiled(source.shape, source.chunks)
        )
        if not plain:
            return None
        codecs = _codecs(source.metadata.to_dict())
        return None if codecs is None else cls(source, codecs)

    @property
    def fill_value(self) -> int:
        """What a chunk that is not stored is read as."""
        return int(self._source.fill_value or 0)

    def share_stored(self, position: tuple[int, int]) -> float:
        """Share of the files of a chunk, one or one per channel, that are there."""
        n_files = -(-self._source.shape[0] // self._source.chunks[0])
        return sum(self._path((i, *position)).is_file() for i in range(n_files)) / n_files

    def read(self, position: tuple[int, int]) -> NDArray[np.uint8]:
        """Decode the chunk ``[c, height, width]`` at a row and a column of chunks, in all channels.

        Raises
        ------
        OSError
            A file cannot be read.
        InputValueError
            A file does not hold a chunk.
        """
        n_channels, *lengths = self._source.shape
        depth, *sizes = self._source.chunks
        if depth >= n_channels:
            chunk = self._read((0, *position))
        else:
            # One file after the other: memory that is given back and taken again is fast.
            n_files = -(-n_channels // depth)
            chunk = np.empty((n_files * depth, *sizes), np.uint8)
            for i in range(n_files):
                chunk[i * depth : (i + 1) * depth] = self._read((i, *position))
        # Chunks at the edges are stored in full.
        height, width = (
            min(size, length - i * size)
            for i, size, length in zip(position, sizes, lengths, strict=True)
        )
        return chunk[:n_channels, :height, :width]

    def _path(self, index: tuple[int, int, int]) -> Path:
        return self._folder / self._source.metadata.encode_chunk_key(index)

    def _read(self, index: tuple[int, int, int]) -> NDArray[np.uint8]:
        path = self._path(index)
        try:
            pixels = path.read_bytes()
        except FileNotFoundError:
            # Chunks of nothing but the fill value need not be stored.
            return np.full(self._source.chunks, self.fill_value, np.uint8)
        try:
            for codec in self._codecs:
                pixels = codec.decode(pixels)
            return np.frombuffer(pixels, np.uint8).reshape(self._source.chunks)
        except (RuntimeError, ValueError, OSError, EOFError) as error:
            msg = f"{path} does not hold a chunk of the image ({error}); write the image again"
            raise InputValueError(msg) from error


def _tiled(shape: Sequence[int], chunks: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Give the sizes of regular chunks as dask does."""
    return tuple(
        tuple(min(size, length - start) for start in range(0, length, size))
        for length, size in zip(shape, chunks, strict=True)
    )


def _codecs(metadata: Mapping[str, Any]) -> list[Any] | None:
    """Give what decodes a file of pixels, in order; None if it takes more than a compressor."""
    if metadata["zarr_format"] == 2:
        plain = metadata["order"] == "C" and not metadata["filters"]
        found = [dict(metadata["compressor"])] if metadata["compressor"] else []
    else:
        first, *rest = (codec["name"] for codec in metadata["codecs"])
        plain = first == "bytes" and len(rest) <= 1 and set(rest) <= _COMPRESSORS
        found = [{"id": name} for name in rest]
    return [numcodecs.get_codec(codec) for codec in found] if plain else None
