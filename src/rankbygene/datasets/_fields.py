"""Smooth random fields over the plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class RandomFields:
    """Independent Gaussian random fields, known at every point of the plane.

    Each is a sum of cosines of random frequency and phase (random Fourier features), which has
    about unit variance and the covariance ``exp(-d**2 / (2 * length**2))``.
    """

    frequency: NDArray[np.float64]  # [n_fields, n_waves, 2], per micrometre
    phase: NDArray[np.float64]  # [n_fields, n_waves]

    @classmethod
    def draw(
        cls, n_fields: int, length_um: float, rng: np.random.Generator, *, n_waves: int = 48
    ) -> RandomFields:
        """Draw fields that vary over about ``length_um`` micrometres."""
        return cls(
            rng.normal(size=(n_fields, n_waves, 2)) / length_um,
            rng.uniform(0, 2 * np.pi, (n_fields, n_waves)),
        )

    def at(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Evaluate all fields at points ``[n, 2]`` in micrometres: ``[n, n_fields]``."""
        values = [
            np.cos(points @ frequency.T + phase).sum(1)
            for frequency, phase in zip(self.frequency, self.phase, strict=True)
        ]
        return np.asarray(np.stack(values, axis=1) * np.sqrt(2 / self.phase.shape[1]))

    def on_grid(self, shape: tuple[int, int], um_per_px: float) -> NDArray[np.float64]:
        """Evaluate all fields on a pixel grid: ``[n_fields, height, width]``.

        A coarse grid is computed and interpolated; the fields are smooth at that scale.
        """
        from scipy.ndimage import map_coordinates

        step = max(1, round(16 / um_per_px))
        rows, columns = (np.arange(0, size + 2 * step, step) for size in shape)
        y, x = np.meshgrid(rows, columns, indexing="ij")
        coarse = self.at(np.stack([x.ravel(), y.ravel()], 1) * um_per_px)
        coarse = coarse.T.reshape(-1, *y.shape)
        where = np.meshgrid(*(np.arange(size) / step for size in shape), indexing="ij")
        return np.stack([map_coordinates(field, where, order=1) for field in coarse])
