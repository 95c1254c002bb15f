"""Several SpatialData objects to slides, each with a name of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from spatialdata import SpatialData

from rankbygene._arguments import checked
from rankbygene._checks import check_sdata
from rankbygene._names import require_names
from rankbygene.data.slides._frame import SpatialSetup, SpotFrame
from rankbygene.data.slides._samples import resolve_object
from rankbygene.errors import InputValueError, Problems


@checked
def resolve_slides(
    sdatas: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    setups: SpatialSetup | Callable[[SpatialData], SpatialSetup] = SpatialSetup(),
    *,
    counts: bool = True,
) -> dict[str, SpotFrame]:
    """Resolve several objects at once and give every slide a name of its own.

    Parameters
    ----------
    sdatas
        One object, a list, or ``{slide: object}``.
    setups
        Where to look, for all objects or as a function of the object.
    counts
        Whether to check the count matrices as well.

    Returns
    -------
    ``{slide: frame}``. Slides are named by the keys of a mapping (``key-region`` where an object
    has several regions); else by their region, with the number of the object where it repeats.

    Raises
    ------
    InputTypeError, InputKeyError, InputValueError
        As for :func:`resolve`, for all objects together.
    """
    items, named = numbered(sdatas)
    problems = Problems()
    found: list[tuple[str, SpotFrame]] = []
    for key, sdata in items.items():
        with problems.collect():
            place = f"slide {key!r}" if named else f"object {key}" if len(items) > 1 else ""
            frames = resolve_object(sdata, setups, key if named else None, counts, place)
            found += [(key, frame) for frame in frames]
    problems.raise_if_any()
    return _with_own_names(found)


def numbered(
    sdatas: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
) -> tuple[dict[str, SpatialData], bool]:
    """Return the objects by key, and whether the keys are the user's names."""
    if isinstance(sdatas, Mapping):
        names = require_names(list(sdatas), "names of slides")
        if len(set(names)) < len(names):
            msg = f"two slides would have one name among {list(sdatas)[:5]}; name each by itself"
            raise InputValueError(msg)
        items, named = dict(zip(names, sdatas.values(), strict=True)), True
    elif isinstance(sdatas, Sequence) and not isinstance(sdatas, str):
        items, named = {str(i): value for i, value in enumerate(sdatas)}, False
    else:
        check_sdata(sdatas)
        items, named = {"0": sdatas}, False
    if not items:
        msg = "no SpatialData object was given; pass at least one"
        raise InputValueError(msg)
    return items, named


def _with_own_names(found: list[tuple[str, SpotFrame]]) -> dict[str, SpotFrame]:
    counts = Counter(frame.slide for _, frame in found)
    frames: dict[str, SpotFrame] = {}
    for key, frame in found:
        slide = frame.slide if counts[frame.slide] == 1 else f"{frame.slide}-{key}"
        if slide in frames:
            msg = f"two slides would be called {slide!r}; pass a dict with names of your own"
            raise InputValueError(msg)
        frames[slide] = replace(frame, slide=slide)
    return frames
