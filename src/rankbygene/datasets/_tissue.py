"""Drawing H&E-like tissue whose texture follows given programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter, uniform_filter

from rankbygene.datasets._fields import RandomFields

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROGRAMS = ("cellularity", "nuclear_size", "spindle", "glands", "fibres")

_EOSIN = np.array([232.0, 178.0, 208.0])
_NUCLEUS = np.array([102.0, 70.0, 150.0])
_LUMEN = np.array([244.0, 236.0, 243.0])
_GLASS = 243.0
_GLAND_PITCH_UM = 55.0
_NUCLEUS_PER_UM2 = 1 / 110


@dataclass(frozen=True, eq=False)
class Slide:
    """What one slide is drawn from, in micrometres."""

    programs: RandomFields  # shared with the genes
    nuisance: RandomFields  # two colour casts and the stain of nuclei; no gene follows them
    shift: RandomFields  # how this serial section is displaced against the first
    shift_um: float
    stain: NDArray[np.float64]  # [3] colour cast of the whole slide
    level: NDArray[np.float64] | float = 0.0  # [n_programs] how much more of each there is

    def program_values(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Activity in [0, 1] of each program at points ``[n, 2]``: ``[n, n_programs]``."""
        moved = points + self.shift_um * self.shift.at(points)
        return np.asarray(1 / (1 + np.exp(-1.8 * (self.programs.at(moved) + self.level))))


def draw_tissue(
    slide: Slide,
    shape: tuple[int, int],
    um_per_px: float,
    centers_um: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Draw a slide.

    Cellularity is the density of nuclei, nuclear size their radius, spindle their elongation
    along a common direction, glands the frequency of lumens ringed by nuclei, fibres the
    strength of parallel strands between them. The local mean colour is then replaced by a cast
    that no gene follows: only texture tells the programs.

    Parameters
    ----------
    slide
        Its fields.
    shape
        Height and width in pixels.
    um_per_px
        Scale.
    centers_um
        Spot centres ``[n, 2]``; tissue lies around them, glass elsewhere.

    Returns
    -------
    uint8 ``[3, height, width]``.
    """
    strands = _strands(slide, shape, um_per_px, rng)
    image = _EOSIN[:, None, None] + strands * np.array([9.0, 16.0, 11.0])[:, None, None]
    glands = _gland_centers(slide, shape, um_per_px, rng)
    lumen = _stamp(glands, np.full((len(glands), 2), 11.0), np.zeros(len(glands)), shape, um_per_px)
    image += lumen * (_LUMEN[:, None, None] - image)
    *casts, stain = slide.nuisance.on_grid(shape, um_per_px)
    depth = 0.62 + 0.18 * np.tanh(stain)
    nuclei = _nuclei(slide, glands, shape, um_per_px, rng)
    image += nuclei * depth * (_NUCLEUS[:, None, None] - image)
    image = _recolour(image, slide, np.stack(casts), um_per_px)
    tissue = _tissue_mask(centers_um, shape, um_per_px)
    image = _GLASS + tissue * (image - _GLASS) + rng.normal(0, 2.0, (3, *shape))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _strands(
    slide: Slide, shape: tuple[int, int], um_per_px: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Parallel strands where fibres are active, unordered grain of the same strength elsewhere."""
    y, x = np.indices(shape) * um_per_px
    bend = _smooth(rng.normal(size=shape), 25 / um_per_px)
    bend *= 14 / max(bend.std(), 1e-9)
    parallel = np.sin(2 * np.pi * (x + 0.6 * y + bend) / 9.0) * np.sqrt(2)
    grain = gaussian_filter(rng.normal(size=shape), 1.2 / um_per_px)
    grain /= max(grain.std(), 1e-9)
    fibres = _program_map(slide, shape, um_per_px, "fibres")
    return np.asarray(np.sqrt(fibres) * parallel + np.sqrt(1 - fibres) * grain)


def _program_map(
    slide: Slide, shape: tuple[int, int], um_per_px: float, name: str
) -> NDArray[np.float64]:
    step = max(1, round(16 / um_per_px))
    y, x = np.meshgrid(*(np.arange(0, size, step) for size in shape), indexing="ij")
    values = slide.program_values(np.stack([x.ravel(), y.ravel()], 1) * um_per_px)
    coarse = values[:, PROGRAMS.index(name)].reshape(y.shape)
    return np.repeat(np.repeat(coarse, step, 0), step, 1)[: shape[0], : shape[1]]


def _gland_centers(
    slide: Slide, shape: tuple[int, int], um_per_px: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    extent = np.array(shape[::-1]) * um_per_px
    axes = [np.arange(0, size, _GLAND_PITCH_UM) for size in extent]
    points = np.stack([axis.ravel() for axis in np.meshgrid(*axes)], 1)
    points = points + rng.uniform(-12, 12, points.shape)
    activity = slide.program_values(points)[:, PROGRAMS.index("glands")]
    return np.asarray(points[rng.uniform(size=len(points)) < activity**1.5])


def _nuclei(
    slide: Slide,
    glands: NDArray[np.float64],
    shape: tuple[int, int],
    um_per_px: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Map the coverage by nuclei."""
    extent = np.array(shape[::-1]) * um_per_px
    points = rng.uniform(0, 1, (int(extent.prod() * _NUCLEUS_PER_UM2), 2)) * extent
    values = slide.program_values(points)
    kept = rng.uniform(size=len(points)) < 0.15 + 0.85 * values[:, 0]
    if len(glands):
        kept &= _distance_to(points, glands) > 12.0
    points, size, spindle = points[kept], values[kept, 1], values[kept, 2]
    ring = _gland_rings(glands, rng)
    ring_values = slide.program_values(ring)
    points = np.concatenate([points, ring])
    size, spindle = np.append(size, ring_values[:, 1]), np.append(spindle, ring_values[:, 2])
    radius = 2.0 + 2.6 * size + rng.normal(0, 0.25, len(size)).clip(-0.6, 0.6)
    stretch = 1 + 1.6 * spindle
    radii = np.stack([radius * np.sqrt(stretch), radius / np.sqrt(stretch)], 1)
    # Nuclei turn towards a common direction as they become spindle-shaped.
    angle = 0.6 + (1 - spindle) * rng.uniform(-np.pi / 2, np.pi / 2, len(points))
    return _stamp(points, radii, angle, shape, um_per_px)


def _distance_to(points: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.spatial import cKDTree

    distance: NDArray[np.float64] = cKDTree(targets).query(points)[0]
    return distance


def _gland_rings(glands: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Place a ring of nuclei around each lumen."""
    angles = np.arange(9) * 2 * np.pi / 9 + rng.uniform(0, 2 * np.pi, (len(glands), 1))
    ring = np.stack([np.cos(angles), np.sin(angles)], 2) * 15.0
    return (glands[:, None] + ring).reshape(-1, 2)


def _stamp(
    centers_um: NDArray[np.float64],
    radii_um: NDArray[np.float64],
    angle: NDArray[np.float64],
    shape: tuple[int, int],
    um_per_px: float,
) -> NDArray[np.float32]:
    """Cover a map by soft-edged ellipses: 1 inside, 0 outside, no loop over them."""
    canvas = np.zeros(shape, np.float32)
    if not len(centers_um):
        return canvas
    centers, radii = centers_um / um_per_px, radii_um / um_per_px
    reach = int(np.ceil(radii.max())) + 1
    corner = np.floor(centers).astype(np.int64)
    cos, sin = np.cos(angle), np.sin(angle)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            x, y = corner[:, 0] + dx, corner[:, 1] + dy
            off_x, off_y = x + 0.5 - centers[:, 0], y + 0.5 - centers[:, 1]
            along = (off_x * cos + off_y * sin) / radii[:, 0]
            across = (off_y * cos - off_x * sin) / radii[:, 1]
            edge = (1 - np.hypot(along, across)) * radii[:, 1] + 0.5
            drawn = (edge > 0) & (x >= 0) & (x < shape[1]) & (y >= 0) & (y < shape[0])
            cover = edge[drawn].clip(0, 1).astype(np.float32)
            np.maximum.at(canvas, (y[drawn], x[drawn]), cover)
    return canvas


def _recolour(
    image: NDArray[np.float64], slide: Slide, casts: NDArray[np.float64], um_per_px: float
) -> NDArray[np.float64]:
    """Replace the local mean colour by the slide's stain and its two casts."""
    local = np.stack([_smooth(channel, 30 / um_per_px) for channel in image])
    directions = np.array([[7.0, 10.0, 4.0], [-5.0, 3.0, 9.0]])
    mean = np.array([201.0, 150.0, 190.0]) + slide.stain
    return np.asarray(
        image - local + mean[:, None, None] + np.tensordot(directions.T, casts, axes=1)
    )


def _smooth(values: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Blur widely at a cost that does not grow with the width: two box filters."""
    size = max(1, round(sigma * np.sqrt(6)))
    return np.asarray(uniform_filter(uniform_filter(values, size), size))


def _tissue_mask(
    centers_um: NDArray[np.float64], shape: tuple[int, int], um_per_px: float
) -> NDArray[np.float64]:
    """Return 1 within a spot's pitch of a centre, fading to 0 on the glass."""
    glass = np.ones(shape, bool)
    columns, rows = np.floor(centers_um / um_per_px).astype(np.int64).T
    glass[rows, columns] = False
    distance = distance_transform_edt(glass) * um_per_px
    return np.asarray(1 / (1 + np.exp((distance - 115.0) / 2.0)))
