"""What the user said about a SpatialData object, and what one slide in it resolves to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from rankbygene._arguments import checked_fields
from rankbygene._checks import check_mapping, check_string
from rankbygene.data.slides._pixel_size import check_um_per_px

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def _check_scale(value: object, name: str) -> object:
    """Judge what is said of the scale as every scale is judged: of all regions, or of each."""
    if isinstance(value, Mapping):
        return {
            region: check_um_per_px(one, f"{name}[{region!r}]")
            for region, one in check_mapping(value, name, "{region: value}").items()
        }
    return None if value is None else check_um_per_px(value, name)


# A frame that no table holds has a set-up without one.
@checked_fields(table_key=check_string, um_per_px=_check_scale)
@dataclass(frozen=True)
class SpatialSetup:
    """Where table, image and counts are found; what ``setup_spatialdata`` was told.

    Parameters
    ----------
    table_key
        Table that holds the counts and annotates the spots.
    image_key
        H&E image, or ``{region: image}``. ``None`` takes the only RGB image that shares a
        coordinate system with the region.
    layer
        Layer of the table that holds counts; ``None`` is ``X``.
    coordinate_system
        System in which spots and image meet; ``None`` takes one that both have.
    patient_key
        Column of ``table.obs`` with one value per slide.
    um_per_px
        Micrometres per pixel of the image's finest level, or ``{region: value}``. Needed only
        where neither the image nor the table tells it.
    """

    table_key: str = "table"
    image_key: str | Mapping[str, str] | None = None
    layer: str | None = None
    coordinate_system: str | None = None
    patient_key: str | None = None
    um_per_px: float | Mapping[str, float] | None = None

    def as_said(self) -> SpatialSetup:
        """Give what a user said, without what was found for one slide."""
        return self


@dataclass(frozen=True)
class PlacedSetup(SpatialSetup):
    """Set-up of a copy that lacks what the scale of its slide was read from.

    The copy is not looked at again: what holds for the slide holds for every part of it.

    Parameters
    ----------
    um_per_unit, um_source
        As in :class:`SpotFrame`.
    """

    um_per_unit: float = field(kw_only=True)
    um_source: str = field(kw_only=True)

    def as_said(self) -> SpatialSetup:
        """Give what a user said, without what was found for one slide."""
        names = [item.name for item in fields(SpatialSetup)]
        return SpatialSetup(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True, eq=False)
class SpotFrame:
    """One slide: the spots of one region, checked and placed, before any pixel is read.

    Parameters
    ----------
    slide
        Name of the slide.
    sdata
        The object that holds it; never changed.
    setup
        What the frame was resolved from. ``table_key`` is ``""`` for a frame without a table.
    region
        Shapes or labels element that the spots come from.
    image_key, coordinate_system
        Image to cut tiles from, and the system in which ``centers`` are given.
    patient
        Value of ``setup.patient_key`` on this slide.
    rows
        Rows of the table, ``[n]``, in the order of the table.
    obs_names, instances
        Names and ids of the spots, ``[n]``.
    centers
        x and y of the spot centres, ``[n, 2]``, in units of ``coordinate_system``.
    array_index
        ``(array_row, array_col)`` of the spots, ``[n, 2]``, where the table has both columns.
    um_per_unit
        Micrometres per unit of ``coordinate_system``.
    um_source
        Where ``um_per_unit`` comes from, in words.
    """

    slide: str
    sdata: SpatialData
    setup: SpatialSetup
    region: str
    image_key: str
    coordinate_system: str
    patient: str | None
    rows: NDArray[np.intp]
    obs_names: NDArray[np.object_]
    instances: NDArray[Any]
    centers: NDArray[np.float64]
    array_index: NDArray[np.int64] | None
    um_per_unit: float
    um_source: str

    @property
    def table(self) -> AnnData:
        """The table that annotates the spots."""
        return self.sdata.tables[self.setup.table_key]

    @property
    def n_obs(self) -> int:
        """Number of spots."""
        return len(self.rows)

    @property
    def centers_um(self) -> NDArray[np.float64]:
        """Spot centres in micrometres, ``[n, 2]``."""
        return self.centers * self.um_per_unit

    def take(self, rows: NDArray[np.intp]) -> Self:
        """Give the frame of some spots, in the order of ``rows``."""
        return replace(
            self,
            rows=self.rows[rows],
            obs_names=self.obs_names[rows],
            instances=self.instances[rows],
            centers=self.centers[rows],
            array_index=None if self.array_index is None else self.array_index[rows],
        )
