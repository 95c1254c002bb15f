"""What a model remembers of the spots it was made with, so that it knows them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
import torch

from rankbygene.data._fingerprint import is_known_image
from rankbygene.data._identity import SpotPrints, match_spots

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.data import SpotFrame, SpotSplit

__all__ = ["LABELS", "USED", "SpotRecord", "slides_seen_as_images", "transductive"]

LABELS = ("train", "validation", "test", "buffer", "unused")
USED = ("train", "validation")  # what a score would say nothing about

# Where a spot has several records, what was done with any of them counts in this order.
_RANKED = ("train", "validation", "buffer", "test", "unused")
_N_COLUMNS = 8  # slide; counts of all genes, of the panel; name, lattice, place; pixels; former id


@dataclass(frozen=True, eq=False)
class SpotRecord:
    """Label of every spot of the model's own data, and what the spot is recognised by.

    Slides are told by what they hold and not by their names, which follow from how objects are
    handed over; see :func:`rankbygene.data._identity.match_spots`.

    Attributes
    ----------
    labels
        One of ``LABELS`` per spot.
    ids
        uint64 ``[n_spots, 8]``: number of the slide; counts of all genes and of the panel; name,
        place on the array and in the image; pixels; and the id that earlier versions saved in place of
        all others. 0 is unknown.
    """

    labels: NDArray[np.object_]
    ids: NDArray[np.uint64]

    @classmethod
    def of(cls, frames: Mapping[str, SpotFrame], split: SpotSplit, genes: Sequence[str]) -> Self:
        """Record all spots of some slides."""
        blocks = [np.zeros((0, _N_COLUMNS), np.uint64)]
        for number, frame in enumerate(frames.values()):
            prints = SpotPrints.of(frame, [None, genes], pixels=True)
            slide, former = (
                np.full(frame.n_obs, number, np.uint64),
                np.zeros(frame.n_obs, np.uint64),
            )
            columns = [slide, *prints.counts, *prints.sites, prints.pixels, former]
            blocks.append(np.stack(columns, axis=1))
        labels = [np.zeros(0, object), *[split.labels[name].astype(object) for name in frames]]
        return cls(np.concatenate(labels), np.concatenate(blocks))

    @classmethod
    def from_tensors(cls, labels: torch.Tensor, ids: torch.Tensor) -> Self:
        """Read what :meth:`to_tensors` gave, or the one id per spot that earlier versions saved."""
        values = ids.numpy().view(np.uint64)
        if values.ndim == 1:
            former, values = values, np.zeros((len(values), _N_COLUMNS), np.uint64)
            values[:, -1] = former
        return cls(np.array(LABELS, object)[labels.numpy()], values)

    def to_tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Give labels and ids as plain integers."""
        codes = pd.Categorical(self.labels, categories=LABELS).codes
        return (
            torch.from_numpy(np.array(codes, np.int8)),
            torch.from_numpy(self.ids.view(np.int64).copy()),
        )

    def joined(self, other: Self) -> Self:
        """Add the spots of further slides."""
        ids = other.ids.copy()
        ids[:, 0] += self.ids[:, 0].max(initial=0) + np.uint64(1)
        return type(self)(
            np.concatenate([self.labels, other.labels]), np.concatenate([self.ids, ids])
        )

    @property
    def n_used(self) -> int:
        """Number of spots that the model trained or validated on."""
        return int(np.isin(self.labels, USED).sum())

    def labels_of(self, frame: SpotFrame, genes: Sequence[str]) -> NDArray[np.object_]:
        """Give the label of each spot of a slide, None for spots that are not the model's own.

        A spot that equals several of the model's has the label that says most: ``"train"`` before
        ``"validation"`` before the rest.
        """
        ranks = pd.Categorical(self.labels, categories=_RANKED).codes.astype(np.intp)
        best = np.full(frame.n_obs, len(_RANKED))
        former = self.ids[:, -1]
        if former.any():
            by_former = pd.Series(ranks, index=former).groupby(level=0).min()
            found = by_former.reindex(_former_ids(frame)).fillna(len(_RANKED))
            best = np.minimum(best, found.to_numpy(np.intp))
        own = np.flatnonzero(former == 0)
        own = own[np.argsort(ranks[own], kind="stable")]
        if len(own):
            new = SpotPrints.of(frame, [None, genes])
        for rows in pd.Series(own).groupby(self.ids[own, 0]).groups.values():
            known = own[rows]
            matched = match_spots(new, self._prints(known))
            hit = matched >= 0
            best[hit] = np.minimum(best[hit], ranks[known[matched[hit]]])
        labels: NDArray[np.object_] = np.array([*_RANKED, None], object)[best]
        return labels

    def _prints(self, rows: NDArray[np.intp]) -> SpotPrints:
        all_genes, panel, *sites, pixels = self.ids[rows, 1:-1].T
        return SpotPrints((all_genes, panel), None, tuple(sites), pixels)


def slides_seen_as_images(
    images_seen: Mapping[str, Sequence[str]], frames: Mapping[str, SpotFrame]
) -> list[str]:
    """Name the slides whose image an encoder was trained on without expression.

    Images are told by their pixels, whatever slides are called; a part that was cut out of an image is
    another image.
    """
    known = {text for prints in images_seen.values() for text in prints}
    found: dict[int, bool] = {}
    for frame in frames.values() if known else ():
        image = frame.sdata.images[frame.image_key]
        if id(image) not in found:
            found[id(image)] = is_known_image(image, known)
    return [
        name
        for name, frame in frames.items()
        if found.get(id(frame.sdata.images[frame.image_key]), False)
    ]


def transductive(slides: Sequence[str]) -> str:
    """Say what scores on slides are worth whose images were seen before."""
    return (
        f"the encoder was trained on the images of slides {list(slides)}, without their counts "
        "(`rankbygene.model.pretrain`): their scores are transductive, and hold for slides whose images "
        "are at hand in training, not for new ones. Pretrain without them to score them as new"
    )


def _former_ids(frame: SpotFrame) -> NDArray[np.uint64]:
    """Identify spots as earlier versions saved them: by slide, name and position."""
    texts = [
        f"{frame.slide}|{name}|{x:.2f}|{y:.2f}"
        for name, (x, y) in zip(frame.obs_names, frame.centers, strict=True)
    ]
    ids: NDArray[np.uint64] = pd.util.hash_array(np.array(texts, object), categorize=False)
    return ids
