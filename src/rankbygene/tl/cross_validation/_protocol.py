"""What a method is to be judged: a function of the training side, which returns one of the held-out side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import numpy as np

from rankbygene.errors import InputTypeError, InputValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.tl.cross_validation._data import ImageSettings, TestData, TrainingData

__all__ = ["Method", "Predictor", "check_predictions", "widest_tile"]

Predictor: TypeAlias = "Callable[[TestData], NDArray[np.floating]]"


@runtime_checkable
class Method(Protocol):
    """Anything that learns from a training side and then predicts a held-out side.

    One that looks at wider tiles than ``train.image.tile_um`` also has a function ``widest_tile`` of
    the :class:`ImageSettings` that gives their width in micrometres, so that blocks are held apart by
    it.
    """

    def __call__(self, train: TrainingData) -> Predictor:
        """Learn; return a function from held-out images to expression ``[n_spots, n_genes]``."""


def widest_tile(method: object, image: ImageSettings) -> float:
    """How wide the widest tile is that a method looks at, in micrometres.

    A method with tiles of its own has a function ``widest_tile`` of the settings that says so.
    """
    own = getattr(method, "widest_tile", None)
    return image.tile_um if own is None else max(image.tile_um, float(own(image)))


def check_predictions(
    name: str, predictions: object, test: TestData, genes: Sequence[str]
) -> NDArray[np.float32]:
    """Give what a method predicted as its own array ``[n_spots, n_genes]``.

    Raises
    ------
    InputTypeError
        It is not numbers.
    InputValueError
        It has another shape, other columns, or values that are not finite.
    """
    columns = getattr(predictions, "columns", None)
    if columns is not None and list(columns) != list(genes):
        msg = f"method {name!r} predicted a table whose columns are not the panel in its order"
        raise InputValueError(msg)
    try:
        values = np.array(predictions, np.float32)
    except (TypeError, ValueError) as error:
        msg = (
            f"method {name!r} predicted {type(predictions).__name__}, not an array of numbers "
            f"({error}); give a dense one [n_spots, n_genes]"
        )
        raise InputTypeError(msg) from error
    shape = sum(frame.n_obs for frame in test.frames.values()), len(genes)
    if values.shape != shape:
        msg = f"method {name!r} predicted {values.shape}, needed is [n_spots, n_genes] = {shape}"
        raise InputValueError(msg)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        msg = f"method {name!r} predicted {bad} values that are not finite numbers"
        raise InputValueError(msg)
    return values
