"""The mean of several methods' predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rankbygene._arguments import checked_fields
from rankbygene.errors import InputTypeError, InputValueError
from rankbygene.tl.cross_validation._protocol import check_predictions, widest_tile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.tl.cross_validation._data import ImageSettings, TestData, TrainingData
    from rankbygene.tl.cross_validation._protocol import Predictor

__all__ = ["EnsembleMethod"]


@checked_fields
@dataclass(frozen=True)
class EnsembleMethod:
    """The mean of what several methods predict, each trained on the whole training side.

    Members that err differently, such as a network and a ridge on colour and texture, or one
    network from several seeds, are better together than alone.

    Parameters
    ----------
    members
        Methods by name, as for :func:`rankbygene.tl.cross_validate`.

    Examples
    --------
    >>> both = rbg.tl.EnsembleMethod({"network": "rankbygene", "statistics": "ridge"})
    >>> rbg.tl.cross_validate(slides, {"both": both})
    """

    members: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.members, Mapping):
            msg = f"members is a mapping {{name: method}}; found {type(self.members).__name__}"
            raise InputTypeError(msg)
        if not self.members:
            msg = "an ensemble needs members"
            raise InputValueError(msg)

    def __call__(self, train: TrainingData) -> Predictor:
        """Train every member."""
        genes = list(train.genes)
        return _Mean({name: member(train) for name, member in self.members.items()}, genes)

    def widest_tile(self, image: ImageSettings) -> float:
        """How wide the widest tile of a member is, in micrometres."""
        return max(widest_tile(member, image) for member in self.members.values())


class _Mean:
    """The mean of several predictors, with what each has to say of itself."""

    def __init__(self, predictors: Mapping[str, Predictor], genes: list[str]) -> None:
        self.predictors = predictors
        self.genes = genes
        notes = {name: getattr(predictor, "note", "") for name, predictor in predictors.items()}
        self.note = "; ".join(f"{name}: {note}" for name, note in notes.items() if note)

    def __call__(self, test: TestData) -> NDArray[np.floating]:
        parts = [
            check_predictions(name, predict(test), test, self.genes)
            for name, predict in self.predictors.items()
        ]
        mean: NDArray[np.floating] = np.mean(parts, axis=0)
        return mean
