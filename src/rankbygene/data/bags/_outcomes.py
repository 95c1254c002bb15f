"""Outcomes of patients: checked and brought to their types."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from rankbygene._names import class_order, label_texts
from rankbygene.errors import InputTypeError, InputValueError

__all__ = ["check_labels", "check_times"]


def check_labels(rows: pd.DataFrame) -> pd.DataFrame:
    """Read the column ``label`` as text, with its classes in order (see :func:`class_order`)."""
    texts = label_texts(rows["label"])
    order = class_order(rows["label"], texts)
    return rows.assign(label=pd.Categorical(texts, categories=order, ordered=True))


def check_times(rows: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """Read ``time`` as positive numbers and ``event`` as bool.

    Parameters
    ----------
    rows
        One row per slide, with ``time`` and ``event``.
    columns
        What the user calls them, for messages.

    Raises
    ------
    InputTypeError
        Events are neither bool nor 0 and 1.
    InputValueError
        A time is not a positive number.
    """
    time = pd.to_numeric(rows["time"], errors="coerce").astype(float)
    # A column with a gap holds objects even where its values are bool.
    event = rows["event"].infer_objects()
    if not (pd.api.types.is_numeric_dtype(event) and event.isin([0, 1]).all()):
        msg = (
            f"the event column {columns['event']!r} holds {list(pd.unique(event))[:5]}; it needs True "
            "(seen) or False (censored), or 1 and 0"
        )
        raise InputTypeError(msg)
    bad = rows.index[~(np.isfinite(time) & (time > 0))]
    if len(bad):
        msg = (
            f"{len(bad)} slides have a time that is not a positive number "
            f"(first: {', '.join(map(str, bad[:3]))}); correct {columns['time']!r}"
        )
        raise InputValueError(msg)
    return rows.assign(time=time, event=event.astype(bool))
