"""Telling whether two slides share spots, whatever the slides and the spots are called."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from rankbygene.data._fingerprint import (
    fingerprint_gene_sets,
    fingerprint_pixels,
    hash_numbers,
    hash_texts,
)
from rankbygene.data.expression._panel import holds_counts
from rankbygene.data.slides._images import level_to_system, n_levels

if TYPE_CHECKING:
    from rankbygene.data.slides._frame import SpotFrame

__all__ = ["SpotPrints", "match_spots", "shared_spots"]

# Equal counts of so many bits are the same spot, without further evidence: among a million spots on
# each side, chance makes one pair in a few hundred studies even of spots that just reach it.
BITS_ALONE = 48.0
# What all spots of one name or place must give together.
BITS_TOGETHER = 12.0

Keys = NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class SpotPrints:
    """What the spots of one slide are recognised by; 0 in a key stands for unknown.

    Attributes
    ----------
    counts
        One fingerprint of the counts per set of genes, each ``[n_spots]``.
    bits
        Of each, see :class:`rankbygene.data._fingerprint.CountFingerprints`; None for spots that
        others are compared with.
    sites
        Name, place on the array, and pixel of the image, each ``[n_spots]``.
    pixels
        The image and the place in it ``[n_spots]``.
    """

    counts: tuple[Keys, ...]
    bits: tuple[NDArray[np.float64], ...] | None
    sites: tuple[Keys, ...]
    pixels: Keys

    @classmethod
    def of(
        cls,
        frame: SpotFrame,
        gene_sets: Sequence[Collection[str] | None],
        *,
        pixels: bool = False,
    ) -> Self:
        """Read what tells the spots of a slide; counts in blocks, of the image its coarsest level.

        Parameters
        ----------
        frame
            The slide.
        gene_sets
            Sets of genes to compare by; None is all genes of the table.
        pixels
            Read the image. It is read anyway where counts cannot tell: there are none, or genes of
            a set are missing.
        """
        none = np.zeros(frame.n_obs)
        counts = [none.astype(np.uint64)] * len(gene_sets)
        bits = [none] * len(gene_sets)
        if holds_counts(frame):
            found = fingerprint_gene_sets(frame, gene_sets)
            counts, bits = [part.values for part in found], [part.bits for part in found]
            known = frame.table.var_names
            complete = all(
                known.isin(list(genes)).sum() >= len(genes) for genes in gene_sets if genes
            )
            pixels |= not complete or not any(part.any() for part in bits)
        else:
            pixels = True
        places = _places(frame)
        sites = (hash_texts(frame.obs_names), _lattice(frame), places)
        image = _image_hash(frame) if pixels else None
        shown = np.zeros_like(places) if image is None else hash_numbers(places, image)
        return cls(tuple(counts), tuple(bits), sites, shown)

    def only(self, i: int) -> Self:
        """Compare by one of the sets of genes alone."""
        bits = None if self.bits is None else self.bits[i : i + 1]
        return replace(self, counts=self.counts[i : i + 1], bits=bits)


def match_spots(new: SpotPrints, known: SpotPrints) -> NDArray[np.intp]:
    """Find the spots of one slide among those of another.

    Counts that chance cannot repeat (48 bits, such as 34 genes with one count each, or 12 with 40)
    tell a spot by themselves. Spots with fewer are alike by chance, and new slides share names and
    places with old ones (barcodes, lattices). For them equal counts are evidence only where name,
    place on the array or place in the image are equal too, and only all together: that ``k`` of
    ``n`` spots of the same site agree by chance has at most the probability ``C(n, k) * 2 ** -bits``,
    with the bits of those that agree, and less than ``2 ** -12`` is asked for. A copy, whole or in
    part, agrees at all sites that it shares; another slide in few. Fewer than about eight spots of
    one count, handed over alone, cannot be told from chance. Spots without counts are told by the
    picture of the slide and the pixel they lie on.

    Parameters
    ----------
    new
        Spots to look for.
    known
        Spots to look among, by the same sets of genes.

    Returns
    -------
    For each spot of ``new`` a row of ``known``, or -1 ``[n_new]``.
    """
    found = np.full(len(new.pixels), -1, np.intp)
    for ours, theirs in zip(new.sites, known.sites, strict=True):
        rows, partners = _pairs(ours, theirs)
        bits = _shared_bits(new, known, rows, partners)
        if _log2_chance(bits) > -BITS_TOGETHER:
            continue
        agree = ~np.isnan(bits) & (found[rows] < 0)
        found[rows[agree]] = partners[agree]
    for ours, theirs, bits in zip(new.counts, known.counts, new.bits or (), strict=True):
        _find(found, ours, theirs, bits >= BITS_ALONE)
    _find(found, new.pixels, known.pixels, new.pixels != 0)
    return found


def shared_spots(
    frames: Mapping[str, SpotFrame], pairs: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], NDArray[np.intp]]:
    """Find the spots that pairs of slides share, by the genes that both of a pair have.

    Every slide is read once. Each pair then takes time linear in its spots, up to the sorting of
    integers.

    Parameters
    ----------
    frames
        The slides by name.
    pairs
        Names of the slides to compare.

    Returns
    -------
    For each pair that shares spots the rows ``[n_shared, 2]``.
    """
    wanted = list(pairs)
    genes = {name: frozenset(frame.table.var_names) for name, frame in frames.items()}
    number = {own: i for i, own in enumerate(dict.fromkeys(genes.values()))}
    kinds = {name: number[own] for name, own in genes.items()}
    sets: dict[str, dict[tuple[int, int], frozenset[str]]] = {name: {} for name in frames}
    for pair in wanted:
        low, high = sorted(kinds[name] for name in pair)
        for name in pair:
            sets[name][low, high] = genes[pair[0]] & genes[pair[1]]
    prints = {
        name: SpotPrints.of(frames[name], list(own.values())) for name, own in sets.items() if own
    }
    found = {}
    for pair in wanted:
        low, high = sorted(kinds[name] for name in pair)
        one, other = (prints[name].only(list(sets[name]).index((low, high))) for name in pair)
        partners = match_spots(one, other)
        rows = np.flatnonzero(partners >= 0)
        if len(rows):
            found[pair] = np.stack([rows, partners[rows]], axis=1)
    return found


def _pairs(ours: Keys, theirs: Keys) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows of both slides with the same key, where each has it once."""
    (our_keys, our_rows), (their_keys, their_rows) = _once(ours), _once(theirs)
    _, i, j = np.intersect1d(our_keys, their_keys, assume_unique=True, return_indices=True)
    return our_rows[i], their_rows[j]


def _once(keys: Keys) -> tuple[Keys, NDArray[np.intp]]:
    values, rows, times = np.unique(keys, return_index=True, return_counts=True)
    kept = (times == 1) & (values != 0)
    return values[kept], rows[kept]


def _shared_bits(
    new: SpotPrints, known: SpotPrints, rows: NDArray[np.intp], partners: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Bits of the counts that the spots of each pair have in common; NaN where they differ."""
    shared = np.full(len(rows), np.nan)
    for ours, theirs, bits in zip(new.counts, known.counts, new.bits or (), strict=True):
        same = (ours[rows] == theirs[partners]) & (ours[rows] != 0)
        shared[same] = np.fmax(shared[same], bits[rows[same]])
    return shared


def _log2_chance(bits: NDArray[np.float64]) -> float:
    """Bound the chance that so many pairs agree; those without any count say nothing."""
    n, k = np.count_nonzero(bits != 0), np.count_nonzero(bits > 0)
    ways = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return float(ways / np.log(2) - np.nansum(bits))


def _find(found: NDArray[np.intp], ours: Keys, theirs: Keys, wanted: NDArray[np.bool_]) -> None:
    rows = np.flatnonzero(wanted & (found < 0))
    values, first = np.unique(theirs, return_index=True)
    if not len(values):
        return
    at = np.searchsorted(values, ours[rows]).clip(max=len(values) - 1)
    hit = values[at] == ours[rows]
    found[rows[hit]] = first[at[hit]]


def _lattice(frame: SpotFrame) -> Keys:
    if frame.array_index is None:
        return np.zeros(frame.n_obs, np.uint64)
    row, column = frame.array_index.astype(np.int64).T.copy().view(np.uint64)
    return hash_numbers(row, hash_numbers(column))


def _places(frame: SpotFrame) -> Keys:
    """Whole pixels of the image's finest level, which stay when a coordinate system is moved."""
    to_system = level_to_system(frame.sdata.images[frame.image_key], 0, frame.coordinate_system)
    points = np.c_[frame.centers, np.ones(frame.n_obs)] @ np.linalg.inv(to_system).T
    # Off the halves and wholes that centres often lie on, so that rounding errors do not matter.
    x, y = np.floor(points[:, :2] + 0.2741).astype(np.int64).T.copy().view(np.uint64)
    return hash_numbers(x, hash_numbers(y))


def _image_hash(frame: SpotFrame) -> Keys:
    image = frame.sdata.images[frame.image_key]
    height, width, total = fingerprint_pixels(image, n_levels(image) - 1)
    return hash_numbers(np.array([height]), hash_numbers(np.array([width]), np.array([total])))
