"""Which spots train a model and which ones judge it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from rankbygene._arguments import checked
from rankbygene.data.expression._expression import Normalization
from rankbygene.data.expression._panel import first_names
from rankbygene.data.splits._blocks import hold_out_block, spatial_blocks
from rankbygene.errors import InputKeyError, InputValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.data.slides._frame import SpotFrame

__all__ = ["SpotSplit", "split_spots"]

logger = logging.getLogger("rankbygene")

Label = Literal["train", "validation", "test", "buffer", "unused"]
SplitBy = Literal["auto", "patient", "slide", "block", "spot"]


@dataclass(frozen=True, eq=False)
class SpotSplit:
    """What each spot is used for.

    Parameters
    ----------
    labels
        For each slide one of ``"train"``, ``"validation"``, ``"test"``, ``"buffer"`` and
        ``"unused"`` per spot, in the order of the slide's frame. Buffer spots and those that a sample
        left out are used for nothing.
    by
        What was kept together: ``"patient"``, ``"slide"``, ``"block"``, ``"spot"``, ``"none"``
        where there is no validation, or ``"saved"`` where the labels come from a saved model.
    note
        What was held out, in a sentence.
    seed
        The seed that the choice followed from.
    """

    labels: dict[str, NDArray[Any]]
    by: Literal["patient", "slide", "block", "spot", "none", "saved"]
    note: str
    seed: int

    @checked
    def rows(self, label: Label) -> NDArray[np.intp]:
        """Give the rows with a label, counted through all slides in order."""
        if label not in get_args(Label):
            msg = f"unknown label {label!r}; allowed are {', '.join(get_args(Label))}"
            raise InputValueError(msg)
        return np.flatnonzero(np.concatenate(list(self.labels.values())) == label)

    @checked
    def sample(self, frames: Mapping[str, SpotFrame], n_spots: int, together: int = 1) -> SpotSplit:
        """Draw some of the spots for training and validation, and leave out the rest.

        Parameters
        ----------
        frames
            The slides.
        n_spots
            How many to draw, give or take a group for each slide and label; each slide and label
            keeps its share.
        together
            Spots are drawn in compact groups of about this many.

        Raises
        ------
        InputValueError
            ``n_spots`` is less than one.
        """
        if n_spots < 1:
            msg = f"{n_spots} spots are asked for; at least 1 is needed"
            raise InputValueError(msg)
        n_used = sum(len(self.rows(label)) for label in ("train", "validation"))
        if n_used <= n_spots:
            return self
        labels = {}
        for name, frame in frames.items():
            rng = np.random.default_rng([self.seed, *name.encode()])
            labels[name] = self.labels[name].astype("<U10")
            for label in ("train", "validation"):
                rows = np.flatnonzero(self.labels[name] == label)
                kept = _draw_groups(frame.centers[rows], n_spots / n_used, together, rng)
                labels[name][np.delete(rows, kept)] = "unused"
        return replace(self, labels=labels)

    def without_unused(self) -> SpotSplit:
        """Give the split of the spots that a sample kept."""
        kept = {name: labels[labels != "unused"] for name, labels in self.labels.items()}
        return replace(self, labels=kept)


def _draw_groups(
    points: NDArray[np.float64], share: float, size: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    group = spatial_blocks(points, -(-len(points) // size)) if size > 1 else np.arange(len(points))
    n_groups = group.max(initial=-1) + 1
    drawn = rng.permutation(n_groups)[: round(share * n_groups)]
    return np.flatnonzero(np.isin(group, drawn))


@checked
def split_spots(
    frames: Mapping[str, SpotFrame],
    *,
    by: SplitBy = "auto",
    validation_size: float = 0.2,
    validation_slides: Sequence[str] | None = None,
    seed: int = 0,
    buffer_um: float | None = None,
    tile_um: float = 112.0,
    normalization: Normalization | None = None,
) -> SpotSplit:
    """Hold out spots for validation so that nothing leaks from them into training.

    Parameters
    ----------
    frames
        The slides by name. Their order does not change what is held out.
    by
        What is kept together. ``"auto"``: patients where every slide has one and there are at
        least two, else slides, else spatial blocks of the only slide. ``"spot"`` draws spots at
        random, so that neighbours end up on both sides; its scores are too good.
    validation_size
        Share of the spots to hold out. Whole groups are held out until the share is met as
        closely as their sizes allow; of a slide, one of ``round(1 / validation_size)`` compact
        blocks with equal numbers of spots. 0 holds out nothing.
    validation_slides
        Slides to hold out instead of a random choice.
    seed
        Seed of the choice.
    buffer_um
        For blocks: training spots up to this distance from a validation spot, in micrometres,
        are left out. By default those whose tile could overlap the tile of a validation spot, and
        those whose smoothing window shares a spot with the window of a validation spot.
    tile_um
        Width of a tile in micrometres, for the default buffer.
    normalization
        Says how expression is smoothed, for the default buffer; the defaults of
        :class:`~rankbygene.data.Normalization` if None.

    Returns
    -------
    The label of every spot, with a note on how far validation can be trusted.

    Raises
    ------
    InputValueError
        If a share, a slide or a group cannot be split as asked.
    InputKeyError
        If a validation slide is not among the slides.

    Warns
    -----
    UserWarning
        If training and validation share a slide.
    """
    _check_request(frames, by, validation_size, buffer_um)
    if validation_slides is not None:
        return _given_slides(frames, by, validation_slides, seed)
    if validation_size == 0:
        labels = {name: np.full(frame.n_obs, "train") for name, frame in frames.items()}
        return SpotSplit(labels, "none", "nothing is held out", seed)
    kept = _kept_together(frames, by)
    if kept == "patient" or kept == "slide":
        held_out = _draw_slides(frames, kept, validation_size, seed)
        return _whole_slides(frames, held_out, kept, seed)
    labels = {}
    for name, frame in frames.items():
        # seeded by the slide's name, so that other slides and their order do not matter
        rng = np.random.default_rng([seed, *name.encode()])
        labels[name] = (
            hold_out_block(
                frame,
                validation_size,
                rng,
                buffer_um=buffer_um,
                tile_um=tile_um,
                normalization=Normalization() if normalization is None else normalization,
            )
            if kept == "block"
            else _random_spots(frame.n_obs, validation_size, rng)
        )
    note = _note_on_parts(labels, kept)
    warnings.warn(note, UserWarning, stacklevel=2)
    return SpotSplit(labels, kept, note, seed)


def _kept_together(
    frames: Mapping[str, SpotFrame], by: SplitBy
) -> Literal["patient", "slide", "block", "spot"]:
    patients = {frame.patient for frame in frames.values()}
    unknown = [name for name, frame in frames.items() if frame.patient is None]
    if by == "auto":
        by = "patient" if not unknown and len(patients) > 1 else "slide"
    if by == "patient":
        if unknown:
            msg = (
                f"a split by patient needs the patient of every slide; {len(unknown)} have none "
                f"(first: {first_names(unknown)}); pass patient_key=... or by='slide'"
            )
            raise InputValueError(msg)
        if len(patients) < 2:
            msg = (
                f"a split by patient needs at least two patients, found {len(patients)} "
                f"({first_names(patients)}); use by='slide' or by='block'"
            )
            raise InputValueError(msg)
    return "block" if by == "slide" and len(frames) == 1 else by


def _draw_slides(
    frames: Mapping[str, SpotFrame], kept: Literal["patient", "slide"], share: float, seed: int
) -> set[str]:
    """Draw whole groups until their spots are as close to the share as they get."""
    group_of = {
        name: str(frame.patient) if kept == "patient" else name for name, frame in frames.items()
    }
    sizes = dict.fromkeys(sorted(set(group_of.values())), 0)
    for name, frame in frames.items():
        sizes[group_of[name]] += frame.n_obs
    groups = list(sizes)
    wanted = share * sum(sizes.values())
    drawn: list[str] = []
    total = 0
    order = [groups[i] for i in np.random.default_rng(seed).permutation(len(groups))]
    for group in order:
        is_closer = abs(total + sizes[group] - wanted) < abs(total - wanted)
        if is_closer and len(drawn) < len(groups) - 1:
            drawn.append(group)
            total += sizes[group]
    if not drawn:
        drawn = [min(order, key=sizes.__getitem__)]
    return {name for name, group in group_of.items() if group in drawn}


def _given_slides(
    frames: Mapping[str, SpotFrame], by: SplitBy, names: Sequence[str], seed: int
) -> SpotSplit:
    unknown = [name for name in names if name not in frames]
    if unknown:
        msg = f"validation_slides names {unknown}, which are not among the slides {list(frames)}"
        raise InputKeyError(msg)
    if by in ("block", "spot"):
        msg = f"validation_slides holds out whole slides and cannot be combined with by={by!r}"
        raise InputValueError(msg)
    held_out = set(names)
    if not 0 < len(held_out) < len(frames):
        msg = (
            f"validation_slides names {len(held_out)} of {len(frames)} slides; "
            "at least one has to be on each side"
        )
        raise InputValueError(msg)
    shared = _shared_patients(frames, held_out)
    if by == "patient" and shared:
        msg = f"patients {shared} have slides among validation_slides and outside of them"
        raise InputValueError(msg)
    all_known = all(frame.patient is not None for frame in frames.values())
    return _whole_slides(frames, held_out, "patient" if all_known and not shared else "slide", seed)


def _whole_slides(
    frames: Mapping[str, SpotFrame],
    held_out: set[str],
    kept: Literal["patient", "slide"],
    seed: int,
) -> SpotSplit:
    labels = {
        name: np.full(frame.n_obs, "validation" if name in held_out else "train")
        for name, frame in frames.items()
    }
    note = (
        f"validation on {len(held_out)} of {len(frames)} slides, kept together by {kept}: "
        f"{', '.join(sorted(held_out))}"
    )
    shared = _shared_patients(frames, held_out)
    if shared:
        note += f"; not independent of training, which has other slides of {', '.join(shared)}"
        logger.warning(note)
    return SpotSplit(labels, kept, note, seed)


def _shared_patients(frames: Mapping[str, SpotFrame], held_out: set[str]) -> list[str]:
    outside = {frame.patient for name, frame in frames.items() if name not in held_out}
    inside = {frame.patient for name, frame in frames.items() if name in held_out}
    return sorted(patient for patient in inside & outside if patient is not None)


def _random_spots(n_obs: int, share: float, rng: np.random.Generator) -> NDArray[np.str_]:
    labels = np.full(n_obs, "train", dtype="<U10")
    labels[rng.permutation(n_obs)[: round(share * n_obs)]] = "validation"
    return labels


def _note_on_parts(labels: Mapping[str, NDArray[np.str_]], kept: str) -> str:
    joined = np.concatenate(list(labels.values()))
    n_held, n_buffer = (
        np.count_nonzero(joined == "validation"),
        np.count_nonzero(joined == "buffer"),
    )
    what = "a spatial block of each slide" if kept == "block" else "spots drawn at random"
    return (
        f"validation on {what} ({n_held} of {joined.size} spots, {n_buffer} left out as a buffer): "
        "it shares slides with training and is not independent of it; expect lower scores on new "
        "slides"
    )


def _check_request(
    frames: Mapping[str, SpotFrame], by: str, share: float, buffer_um: float | None
) -> None:
    if by not in get_args(SplitBy):
        msg = f"by is {by!r}; allowed are {', '.join(map(repr, get_args(SplitBy)))}"
        raise InputValueError(msg)
    if not 0 <= share < 1:
        msg = f"validation_size is {share}; a share from 0 to below 1 is needed"
        raise InputValueError(msg)
    if buffer_um is not None and not 0 <= buffer_um < np.inf:
        msg = f"buffer_um is {buffer_um}; micrometres, at least 0, are needed"
        raise InputValueError(msg)
