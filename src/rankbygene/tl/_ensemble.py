"""The mean of several methods' predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rankbygene.errors import InputValueError

if TYPE_CHECKING:
    from rankbygene.tl._data import TrainingData
    from rankbygene.tl._methods import Predictor

__all__ = ["EnsembleMethod"]


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
        if not self.members:
            msg = "an ensemble needs members"
            raise InputValueError(msg)

    def __call__(self, train: TrainingData) -> Predictor:
        """Train every member."""
        predictors = [member(train) for member in self.members.values()]
        return lambda test: np.mean([predict(test) for predict in predictors], axis=0)
