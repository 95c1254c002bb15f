"""Telling data by what it holds, whatever it is called, however it is ordered and stored."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy

from rankbygene.data.expression._panel import count_blocks
from rankbygene.data.slides._chunks import decode_chunks
from rankbygene.data.slides._images import level_array, level_shape, level_to_system, n_levels

if TYPE_CHECKING:
    from scipy import sparse

    from rankbygene.data.slides._frame import SpotFrame
    from rankbygene.data.slides._images import Image

__all__ = [
    "CountFingerprints",
    "fingerprint_counts",
    "fingerprint_frame",
    "fingerprint_gene_sets",
    "fingerprint_image",
    "fingerprint_pixels",
    "hash_numbers",
    "hash_texts",
    "is_known_image",
    "odd_numbers",
]


@dataclass(frozen=True, eq=False)
class CountFingerprints:
    """What tells each spot of a slide by its counts.

    Attributes
    ----------
    values
        uint64 ``[n_spots]``; spots have the same value if they have the same counts, in whatever
        order the genes are stored. Genes without counts do not matter.
    n_detected
        Genes with counts ``[n_spots]``. Spots with few are alike by chance.
    bits
        How little chance has a part in equal counts ``[n_spots]``: whatever the rates of the genes,
        another measurement by Poisson counts comes out the same with a probability of at most
        ``2 ** -bits``. A gene with one count gives 1.4 bits, one with 40 counts 4.
    """

    values: NDArray[np.uint64]
    n_detected: NDArray[np.intp]
    bits: NDArray[np.float64]


def fingerprint_counts(frame: SpotFrame, genes: Sequence[str] | None = None) -> CountFingerprints:
    """Tell the spots of a slide by their counts.

    Parameters
    ----------
    frame
        The slide; its table is read in blocks of rows.
    genes
        Genes to look at, in any order; all of the table if None. Those that the table lacks count
        as not detected.

    Raises
    ------
    InputValueError
        The frame has no table.
    InputKeyError
        The table lacks the layer.
    """
    return fingerprint_gene_sets(frame, [genes])[0]


def fingerprint_gene_sets(
    frame: SpotFrame, gene_sets: Sequence[Collection[str] | None]
) -> list[CountFingerprints]:
    """Tell the spots of a slide by several sets of genes in one pass, see :func:`fingerprint_counts`."""
    names = frame.table.var_names
    of_gene = hash_texts(names)
    chosen = np.stack(
        [
            np.ones(len(names), bool) if genes is None else names.isin(list(genes))
            for genes in gene_sets
        ],
        axis=1,
    )
    of_set, shape = chosen.astype(np.uint64), (0, len(gene_sets))
    values, n_detected = [np.zeros(shape, np.uint64)], [np.zeros(shape, np.intp)]
    bits = [np.zeros(shape)]
    for block in count_blocks(frame):
        hashed, surprise = _hashed_counts(block, of_gene)
        values.append(_mixed(hashed @ of_set))
        n_detected.append((surprise != 0).astype(np.intp) @ chosen.astype(np.intp))
        bits.append(surprise @ chosen.astype(np.float64))
    joined = (np.concatenate(parts) for parts in (values, n_detected, bits))
    return [
        CountFingerprints(*columns) for columns in zip(*(part.T for part in joined), strict=True)
    ]


def fingerprint_frame(
    frame: SpotFrame, *, levels: Iterable[int], counts: bool = True
) -> dict[str, str]:
    """Describe what a result on a slide depends on, in parts that a message can name.

    Parameters
    ----------
    frame
        The slide, its spots in the order of the result.
    levels
        Levels of the image that are read.
    counts
        Whether the result depends on the counts.

    Returns
    -------
    Hexadecimal digests of ``spots`` (their names), ``geometry`` (where they lie in the image, and the
    physical scale), ``pixels``, and of ``counts``.
    """
    image = frame.sdata.images[frame.image_key]
    used = sorted(set(levels))
    matrices = [level_to_system(image, level, frame.coordinate_system) for level in used]
    parts = {
        "spots": _digest(hash_texts(frame.obs_names)),
        "geometry": _digest(frame.centers, np.float64(frame.um_per_unit), *matrices),
        "pixels": _digest(*[fingerprint_pixels(image, level) for level in used]),
    }
    if counts:
        parts["counts"] = _digest(fingerprint_counts(frame).values)
    return parts


def fingerprint_pixels(image: Image, level: int) -> NDArray[np.uint64]:
    """Tell a level of an image by all of its pixels, read chunk by chunk.

    Each pixel is multiplied by odd numbers that stand for its row, column and channel, and the
    products are added modulo 2^64. The sum does not depend on how the image is cut into chunks, and no
    single changed pixel leaves it as it was.

    Returns
    -------
    uint64 ``[3]``: height, width and the sum.
    """
    pixels = level_array(image, level)
    height, width = level_shape(image, level)
    rows, columns, channels = (odd_numbers(n, of) for n, of in ((height, 1), (width, 2), (3, 3)))
    tops, lefts = (np.cumsum([0, *lengths]) for lengths in pixels.chunks[1:])
    positions = np.ndindex(len(tops) - 1, len(lefts) - 1)
    total = np.zeros((), np.uint64)
    for (i, j), block in decode_chunks(pixels, positions, workers=min(8, os.cpu_count() or 1)):
        sums = block.astype(np.uint64) @ columns[lefts[j] : lefts[j + 1]]  # [3, chunk_height]
        total += (sums @ rows[tops[i] : tops[i + 1]]) @ channels
    return np.array([height, width, total[()]], np.uint64)


def fingerprint_image(image: Image) -> list[str]:
    """Tell an image by each of its levels, as text; every pixel is read."""
    return [_level_text(image, level) for level in range(n_levels(image))]


def is_known_image(image: Image, known: Collection[str]) -> bool:
    """Whether a level of an image is among fingerprints of :func:`fingerprint_image`.

    Only levels of a known size are read.
    """
    sizes = {text.partition(":")[0] for text in known}
    return any(
        _level_text(image, level) in known
        for level in reversed(range(n_levels(image)))
        if "x".join(map(str, level_shape(image, level))) in sizes
    )


def _level_text(image: Image, level: int) -> str:
    height, width, total = fingerprint_pixels(image, level).tolist()
    return f"{height}x{width}:{total:016x}"


def hash_texts(texts: Iterable[Any]) -> NDArray[np.uint64]:
    """Hash each text by itself, the same in every session ``[n]``."""
    values: NDArray[np.uint64] = pd.util.hash_array(
        np.array([str(text) for text in texts], object), categorize=False
    )
    return values


def hash_numbers(
    numbers: NDArray[np.uint64], of: NDArray[np.uint64] | None = None
) -> NDArray[np.uint64]:
    """Hash each number by itself, or each beside what ``of`` stands for; 0 is never given."""
    values = _mixed(numbers) if of is None else _mixed(_mixed(numbers) + of)
    return np.where(values == 0, np.uint64(1), values)


def _hashed_counts(
    counts: sparse.csr_array, of_gene: NDArray[np.uint64]
) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Put a hash of each gene and its count in the place of each count, and the count's bits."""
    counts.sum_duplicates()
    counts.eliminate_zeros()
    amounts = counts.data.astype(np.int64)
    hashed = counts.astype(np.uint64)
    hashed.data = _mixed(of_gene[counts.indices] + _mixed(amounts.view(np.uint64)))
    surprise = counts.copy()
    surprise.data = _BITS[np.clip(amounts, 0, len(_BITS) - 1)]
    return hashed, surprise


def _bits_of_counts(n: int) -> NDArray[np.float64]:
    """Give ``-log2`` of the largest probability that any Poisson law has for each count below ``n``."""
    counts = np.arange(n, dtype=np.float64)
    bits: NDArray[np.float64] = (counts - xlogy(counts, counts) + gammaln(counts + 1)) / np.log(2)
    return bits


_BITS = _bits_of_counts(1024)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread the bits of each number over all of its bits (the finaliser of SplitMix64)."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def odd_numbers(n: int, stream: int) -> NDArray[np.uint64]:
    """Give ``n`` odd numbers that stand for places, the same in every session; others per ``stream``."""
    start = np.uint64(stream << 56)
    return _mixed(np.arange(n, dtype=np.uint64) + start) | np.uint64(1)


def _digest(*arrays: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        values = np.ascontiguousarray(array)
        digest.update(f"{values.dtype.str}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
