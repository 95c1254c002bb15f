"""What ``setup_spatialdata`` was told, remembered beside the object and never inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from spatialdata import SpatialData

from rankbygene._checks import check_sdata
from rankbygene.data import BagSetup, SpatialSetup
from rankbygene.data.bags._bags import declare_features
from rankbygene.data.slides._known_scale import SETUPS
from rankbygene.errors import InputValueError

if TYPE_CHECKING:
    from typing import TypeAlias

    SpatialDatas: TypeAlias = SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData]


def each_sdata(sdata: SpatialDatas) -> list[SpatialData]:
    """List the objects in ``sdata``, which may be one, a sequence or a mapping of them."""
    if isinstance(sdata, Mapping):
        items = list(sdata.values())
    elif isinstance(sdata, Sequence) and not isinstance(sdata, str):
        items = list(sdata)
    else:
        items = [sdata]
    for item in items:
        check_sdata(item)
    return items


def remember_setup(sdata: SpatialDatas, setup: SpatialSetup) -> None:
    """Register ``setup`` for every object in ``sdata``."""
    for item in each_sdata(sdata):
        SETUPS[item] = setup


def recall_setup(sdata: SpatialData, *, default: SpatialSetup | None = None) -> SpatialSetup:
    """Return what was registered for ``sdata``, or ``default``.

    Raises
    ------
    InputValueError
        Nothing was registered and there is no default.
    """
    setup = SETUPS.get(sdata, default)
    if setup is None:
        msg = (
            "this SpatialData object has not been set up; call "
            "`Model.setup_spatialdata(sdata, table_key=..., ...)` first, or use `rankbygene.model.fit`"
        )
        raise InputValueError(msg)
    return setup


def remember_features(sdata: SpatialDatas, setup: BagSetup) -> None:
    """Register where the tile features of every object in ``sdata`` are.

    Beside the other set-up: the same object can feed a model of tiles and a model of slides.
    """
    for item in each_sdata(sdata):
        declare_features(item, setup)
