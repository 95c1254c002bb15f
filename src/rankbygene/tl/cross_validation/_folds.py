"""Which slides or spots are held out in which fold, and what would leak between the sides."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.spatial import cKDTree
from sklearn.model_selection import GroupKFold

from rankbygene._names import label_texts
from rankbygene.data._identity import shared_spots
from rankbygene.data.expression._panel import first_names
from rankbygene.data.splits._blocks import buffer_between, spatial_blocks
from rankbygene.errors import InputKeyError, InputTypeError, InputValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.data import Normalization, SpotFrame

__all__ = ["Fold", "Leak", "check_folding", "check_pixels", "make_folds", "patient_of"]

Leak = Literal["patient", "window"]
Rows = dict[str, "NDArray[np.intp]"]

_N_BLOCKS = 4
_N_SPOT_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Fold:
    """One division of the spots.

    Attributes
    ----------
    name
        The group that is held out, or the number of the fold.
    train, test
        Rows of each slide's frame; slides without rows on a side are absent there. Spots in
        neither are a buffer.
    """

    name: str
    train: Rows
    test: Rows

    def describe(self) -> dict[str, Any]:
        """Give the numbers of spots per slide, in plain values."""
        return {
            "fold": self.name,
            "train": {slide: len(rows) for slide, rows in self.train.items()},
            "test": {slide: len(rows) for slide, rows in self.test.items()},
        }


def make_folds(
    frames: Mapping[str, SpotFrame],
    groups: str = "patient",
    n_splits: int | None = None,
    *,
    allow_leaks: Sequence[Leak] = (),
    seed: int = 0,
    tile_um: float = 112.0,
    normalization: Normalization,
) -> list[Fold]:
    """Divide slides or spots into folds that share nothing.

    Parameters
    ----------
    frames
        The slides by name.
    groups
        What is kept together. ``"patient"``: the patient named in set-up, or by the column
        ``patient`` of ``obs``. ``"slide"``. Another column of ``obs`` with one value per slide.
        ``"block"``: compact blocks of each slide, with a buffer around what is held out.
        ``"spot"``: spots at random, whose scores are too good.
    n_splits
        Number of folds; by default each group is held out once (4 blocks, 5 folds of spots).
    allow_leaks
        Leaks to accept by name. ``"patient"``: one patient has slides on both sides.
        ``"window"``: tiles and smoothing windows reach across (no buffer around blocks; spots).
    seed
        Of folds of spots.
    tile_um, normalization
        For the buffer between blocks.

    Returns
    -------
    The folds; every spot is held out in exactly one.

    Raises
    ------
    InputValueError
        There are too few groups, or the folds would leak in a way that is not allowed by name.
    InputKeyError
        A slide has no such column.
    """
    check_folding(groups, n_splits)
    if groups == "block":
        wide = "window" in allow_leaks
        folds = _block_folds(frames, n_splits or _N_BLOCKS, tile_um, normalization, wide)
    elif groups == "spot":
        folds = _spot_folds(frames, n_splits or _N_SPOT_FOLDS, allow_leaks, seed)
    else:
        folds = _group_folds(frames, groups, n_splits)
    _check_copies(frames, folds)
    if groups in ("block", "spot"):
        return folds
    if "window" not in allow_leaks:
        check_pixels(frames, folds, tile_um)
    if "patient" not in allow_leaks:
        _check_patients(frames, folds, groups)
    return folds


def check_folding(groups: str, n_splits: int | None) -> None:
    """Check what was asked for, before there are slides.

    Raises
    ------
    InputTypeError, InputValueError
        There are fewer than two folds, or ``groups`` is no text.
    """
    if not isinstance(groups, str):
        msg = (
            "groups is 'patient', 'slide', 'block', 'spot' or the name of a column of obs; found "
            f"{type(groups).__name__}"
        )
        raise InputTypeError(msg)
    if n_splits is not None and n_splits < 2:
        msg = f"n_splits is {n_splits}; at least 2 folds are needed"
        raise InputValueError(msg)


def patient_of(frame: SpotFrame) -> str | None:
    """Patient of a slide: as set up, else the one value of ``obs["patient"]``, else unknown."""
    if frame.patient is not None:
        return frame.patient
    return _value_of(frame, "patient") if _has_column(frame, "patient") else None


def _group_folds(frames: Mapping[str, SpotFrame], groups: str, n_splits: int | None) -> list[Fold]:
    group_of = {name: _group_of(frame, groups) for name, frame in frames.items()}
    names = sorted(set(group_of.values()))
    if len(names) < 2:
        msg = (
            f"groups={groups!r} puts all {len(frames)} slides into one group ({names[0]!r}); nothing "
            "is left to train on. Pass groups='slide', or groups='block' for parts of slides"
        )
        raise InputValueError(msg)
    held_out = [{name} for name in names]
    if n_splits is not None:
        if n_splits > len(names):
            msg = f"n_splits is {n_splits} but groups={groups!r} gives {len(names)} groups only"
            raise InputValueError(msg)
        held_out = _balanced(frames, group_of, n_splits)
    folds = []
    for i, chosen in enumerate(held_out):
        rows = {name: np.arange(frame.n_obs) for name, frame in frames.items()}
        test = {name: rows[name] for name in frames if group_of[name] in chosen}
        train = {name: rows[name] for name in frames if name not in test}
        folds.append(Fold(str(i) if n_splits else next(iter(chosen)), train, test))
    return folds


def _balanced(
    frames: Mapping[str, SpotFrame], group_of: Mapping[str, str], n_splits: int
) -> list[set[str]]:
    """Join groups into folds with similar numbers of spots."""
    of_spot = np.concatenate(
        [np.full(frame.n_obs, group_of[name], object) for name, frame in frames.items()]
    )
    splits = GroupKFold(n_splits).split(of_spot, groups=of_spot)
    return [set(of_spot[test]) for _, test in splits]


def _block_folds(
    frames: Mapping[str, SpotFrame],
    n_splits: int,
    tile_um: float,
    normalization: Normalization,
    without_buffer: bool,
) -> list[Fold]:
    blocks = {name: spatial_blocks(frame.centers_um, n_splits) for name, frame in frames.items()}
    folds = []
    for i in range(n_splits):
        train, test = {}, {}
        for name, frame in frames.items():
            held = blocks[name] == i
            buffer = buffer_between(
                frame,
                held,
                buffer_um=0.0 if without_buffer else None,
                tile_um=tile_um,
                normalization=normalization,
            )
            test[name], train[name] = np.flatnonzero(held), np.flatnonzero(~held & ~buffer)
            if not len(test[name]) or not len(train[name]):
                msg = (
                    f"slide {name!r} with {frame.n_obs} spots is too small for {n_splits} blocks: "
                    f"{len(test[name])} spots held out, {buffer.sum()} in the buffer, "
                    f"{len(train[name])} to train on; pass fewer n_splits or a smaller tile_um"
                )
                raise InputValueError(msg)
        folds.append(Fold(str(i), train, test))
    return folds


def _spot_folds(
    frames: Mapping[str, SpotFrame], n_splits: int, allow_leaks: Sequence[Leak], seed: int
) -> list[Fold]:
    if "window" not in allow_leaks:
        msg = (
            "groups='spot' puts neighbours on both sides, whose tiles overlap and whose expression is "
            "alike; use 'patient', 'slide' or 'block', or pass allow_leaks=['window']"
        )
        raise InputValueError(msg)
    text = "folds of random spots leak between neighbours; their scores say nothing of new tissue"
    warnings.warn(text, UserWarning, stacklevel=4)
    rng = np.random.default_rng(seed)
    labels = {name: rng.permutation(frame.n_obs) % n_splits for name, frame in frames.items()}
    return [
        Fold(
            str(i),
            {name: np.flatnonzero(label != i) for name, label in labels.items()},
            {name: np.flatnonzero(label == i) for name, label in labels.items()},
        )
        for i in range(n_splits)
    ]


def _group_of(frame: SpotFrame, groups: str) -> str:
    if groups == "slide":
        return frame.slide
    if groups == "patient":
        patient = patient_of(frame)
        if patient is None:
            msg = (
                f"groups='patient' needs the patient of every slide and that of {frame.slide!r} is not "
                "known; pass patient_key=... (a column of obs), or groups='slide'"
            )
            raise InputValueError(msg)
        return patient
    if not _has_column(frame, groups):
        msg = (
            f"groups={groups!r} is neither 'patient', 'slide', 'block', 'spot' nor a column of obs of "
            f"slide {frame.slide!r}; it has {first_names(list(frame.table.obs))}"
        )
        raise InputKeyError(msg)
    return _value_of(frame, groups)


def _has_column(frame: SpotFrame, column: str) -> bool:
    return bool(frame.setup.table_key) and column in frame.table.obs


def _value_of(frame: SpotFrame, column: str) -> str:
    named = label_texts(frame.table.obs[column].iloc[frame.rows], f"values of obs[{column!r}]")
    values = ["a missing one" if name is None else str(name) for name in dict.fromkeys(named)]
    if len(values) != 1 or None in named:
        msg = (
            f"obs[{column!r}] has {len(values)} values on slide {frame.slide!r} (first: "
            f"{', '.join(values[:3])}); one per slide is needed to keep slides together"
        )
        raise InputValueError(msg)
    return str(values[0])


def _check_patients(frames: Mapping[str, SpotFrame], folds: Sequence[Fold], groups: str) -> None:
    patient = {name: patient_of(frame) for name, frame in frames.items()}
    for fold in folds:
        shared = {patient[name] for name in fold.train} & {patient[name] for name in fold.test}
        shared.discard(None)
        if shared:
            msg = (
                f"groups={groups!r} puts slides of patient {sorted(map(str, shared))[0]!r} on both sides "
                f"(held out: {first_names(fold.test)}): the score would not be that of a new patient. "
                "Use groups='patient', or pass allow_leaks=['patient'] and say so with the score"
            )
            raise InputValueError(msg)


def check_pixels(frames: Mapping[str, SpotFrame], folds: Sequence[Fold], tile_um: float) -> None:
    """Refuse slides on two sides whose tiles show the same pixels of one image.

    Raises
    ------
    InputValueError
        They do.
    """
    for a, b in combinations(frames, 2):
        if not _share_an_image(frames[a], frames[b]):
            continue
        apart = any(
            {a, b} <= {*fold.train, *fold.test} and (a in fold.test) != (b in fold.test)
            for fold in folds
        )
        if not apart:
            continue
        distance, _ = cKDTree(frames[a].centers_um).query(frames[b].centers_um)
        # Tiles follow the axes of the image: take their diagonal.
        n_shared = int((distance <= np.sqrt(2) * tile_um).sum())
        if n_shared:
            msg = (
                f"{n_shared:,} spots of slide {b!r} lie within a tile of spots of slide {a!r} in the same "
                f"image {frames[a].image_key!r}, and one would be trained on while the other is held out; "
                "drop one of them, name both by one patient, or pass allow_leaks=['window']"
            )
            raise InputValueError(msg)


def _share_an_image(a: SpotFrame, b: SpotFrame) -> bool:
    same = a.sdata.images[a.image_key] is b.sdata.images[b.image_key]
    return same and a.coordinate_system == b.coordinate_system


def _check_copies(frames: Mapping[str, SpotFrame], folds: Sequence[Fold]) -> None:
    """Refuse spots that are trained on under one name and held out under another.

    A slide that is there twice on the same side of every fold counts twice in training or in the
    mean of the scores, but leaks nothing, and is let pass.
    """
    crossing = {
        pair for fold in folds for pair in _pairs_across(fold, list(frames)) if pair[0] != pair[1]
    }
    shared = shared_spots(frames, sorted(crossing, key=str))
    for fold in folds:
        for pair, rows in shared.items():
            one, other = (
                _sides(fold, name, frames[name])[own]
                for name, own in zip(pair, rows.T, strict=True)
            )
            n_across = int(np.count_nonzero(one * other < 0))
            if n_across:
                held, trained = pair if one[one * other < 0][0] > 0 else pair[::-1]
                msg = (
                    f"slides {held!r} and {trained!r} hold the same counts: {n_across} spots of {held!r} "
                    f"that fold {fold.name!r} holds out would be trained on in {trained!r}, whatever "
                    "their names and order. Drop one of the slides, or keep both on one side (the same "
                    "value in the column of obs that `groups` names)"
                )
                raise InputValueError(msg)


def _pairs_across(fold: Fold, order: list[str]) -> Iterator[tuple[str, str]]:
    """Pairs of slides, each in the given order, with spots on different sides."""
    place = {name: i for i, name in enumerate(order)}
    for test, train in product(fold.test, fold.train):
        yield (test, train) if place[test] < place[train] else (train, test)


def _sides(fold: Fold, name: str, frame: SpotFrame) -> NDArray[np.int8]:
    """Give 1 for spots held out, -1 for those trained on, 0 for others."""
    sides = np.zeros(frame.n_obs, np.int8)
    sides[fold.test.get(name, [])] = 1
    sides[fold.train.get(name, [])] = -1
    return sides
