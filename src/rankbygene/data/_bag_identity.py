"""Telling whether slides of different patients hold the same tiles, whatever they are called and ordered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import gammaln

from rankbygene.data._fingerprint import hash_numbers, odd_numbers
from rankbygene.data.bags._bags import stream

if TYPE_CHECKING:
    from typing import TypeAlias

    from rankbygene.data.bags._bags import Bag

    TilePrints: TypeAlias = tuple[NDArray[np.uint64], NDArray[np.float64]]

__all__ = ["shared_tiles"]

# Tiles of bare glass and of padding are the same in all slides: so many kinds of them are let pass.
_BLANK_KINDS = 3
# What all tiles that two slides share must give together against chance.
_BITS_TOGETHER = 32.0
# Mantissa bits of half precision, in which copies are often kept; float32 has 23.
_MANTISSA, _DROPPED = 10, 13
# Columns and values that are looked at to see how much the features of a tile say.
_COLUMNS, _VALUES = 64, 1 << 16


def shared_tiles(
    bags: Mapping[str, Bag], patients: Mapping[str, str]
) -> dict[tuple[str, str], tuple[int, int]]:
    """Find slides of different patients that are copies of each other, whole or in part.

    Tiles are told by their features, to the precision of float16. Two slides are copies where they share
    more than three different tiles, or half of the smaller slide's, and chance cannot do that: that
    ``k`` of ``n`` tiles are found among ``m`` others has at most the probability
    ``C(n, k) * m ** k * 2 ** -bits``, with the bits that the features of these tiles hold. Few features, or
    features that take few values (clusters, rounded shares), say little.

    Every slide is read once; time and memory are linear in the tiles, up to the sorting of integers.
    Of slides that several patients have, some of the pairs are given, each slide in one at least.

    Parameters
    ----------
    bags
        The slides by name.
    patients
        The patient of each.

    Returns
    -------
    For each pair of copies, in the order of ``bags``, how many different tiles they share, and of how many
    of the smaller one.
    """
    names = list(bags)
    prints = [_tile_prints(bag) for bag in bags.values()]
    numbers = pd.factorize(pd.Series([patients[name] for name in names], dtype=object))[0]
    found = {}
    for a, b, bits in _neighbours(prints, numbers):
        n, m = sorted((len(prints[a][0]), len(prints[b][0])))
        enough = len(bits) > _BLANK_KINDS or 2 * len(bits) >= n
        if enough and _bits_against_chance(len(bits), n, m, bits.sum()) >= _BITS_TOGETHER:
            both = np.intersect1d(prints[a][0], prints[b][0], assume_unique=True)
            found[names[a], names[b]] = (len(both), n)
    return found


def _neighbours(
    prints: Sequence[TilePrints], patients: NDArray[np.intp]
) -> Iterator[tuple[int, int, NDArray[np.float64]]]:
    """Give pairs of slides that follow each other in the list of those with a tile, with its bits.

    Not all pairs: a tile that all slides have would make their number squared.
    """
    keys, bits = (np.concatenate(parts) for parts in zip(*prints, strict=True))
    owner = np.repeat(np.arange(len(prints)), [len(own) for own, _ in prints])
    order = np.lexsort((owner, patients[owner], keys))
    keys, bits, owner = keys[order], bits[order], owner[order]
    links = (keys[1:] == keys[:-1]) & (patients[owner[1:]] != patients[owner[:-1]])
    a, b = (np.asarray(part[links]) for part in (owner[:-1], owner[1:]))
    least = pd.Series(np.minimum(bits[1:], bits[:-1])[links])
    codes = np.minimum(a, b) * len(prints) + np.maximum(a, b)
    for rows in least.groupby(codes).indices.values():
        yield *divmod(int(codes[rows[0]]), len(prints)), least.to_numpy()[rows]


def _tile_prints(bag: Bag) -> TilePrints:
    """Give a hash of each different tile of a slide, and the bits that its features hold."""
    columns = np.unique(np.linspace(0, bag.n_features - 1, _COLUMNS).astype(np.intp))
    weights = odd_numbers(bag.n_features, 4)
    hashed, held = [], []
    most = 0.0
    for values in stream(bag):
        rounded = _to_half_precision(values)
        hashed.append(hash_numbers(rounded.astype(np.uint64) @ weights))
        looked = np.sort(rounded[:, columns], axis=1)
        # Many values that are few different ones say little each.
        most = max(most, np.log2(len(np.unique(looked.ravel()[:: 1 + looked.size // _VALUES]))))
        repeated = np.zeros(looked.shape, bool)
        repeated[:, 1:] = looked[:, 1:] == looked[:, :-1]
        held.append(np.where(repeated, 0.0, np.minimum(_mantissa_bits(looked), most)).sum(axis=1))
    keys, first = np.unique(np.concatenate(hashed), return_index=True)
    return keys, np.concatenate(held)[first]


def _to_half_precision(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Give the bits of float32 values rounded to the mantissa of float16, halves to even as it does."""
    bits = (np.ascontiguousarray(values) + np.float32(0)).view(np.uint32)  # -0 is 0
    step = np.uint32(1 << _DROPPED)
    odd = (bits >> np.uint32(_DROPPED)) & np.uint32(1)
    rounded: NDArray[np.uint32] = (bits + (step // np.uint32(2) - np.uint32(1)) + odd) & ~(
        step - np.uint32(1)
    )
    return rounded


def _mantissa_bits(bits: NDArray[np.uint32]) -> NDArray[np.intp]:
    """Count the mantissa bits that values need: none for powers of two, few for small whole numbers."""
    kept = (bits >> np.uint32(_DROPPED)) & np.uint32((1 << _MANTISSA) - 1)
    lowest = (kept & (~kept + np.uint32(1))).astype(np.intp)
    return np.where(kept == 0, 0, _MANTISSA + 1 - np.frexp(lowest)[1])


def _bits_against_chance(k: int, n: int, m: int, bits: float) -> float:
    ways = (gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)) / np.log(2)
    return float(bits - k * np.log2(m) - ways)
