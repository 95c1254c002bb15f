"""Structural similarity of expression maps on the grid of spots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError
from rankbygene.metrics._inputs import as_matrix, as_pair, mean_over_groups, nanmean, value_range

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from rankbygene.metrics._inputs import Average

_TRUNCATE = 3.5
_K1, _K2 = 0.01, 0.03
# cells of the grids filtered together; bounds the memory at a few hundred MB
_CELLS_AT_ONCE = 4_000_000
# positions in pixels give grids that are nearly empty
_MAX_CELLS_PER_SPOT = 100


@checked
def ssim(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    array_index: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    sigma: float = 1.5,
    data_range: float | None = None,
    patients: ArrayLike | None = None,
    average: Average | None = None,
) -> NDArray[np.float64]:
    r"""Structural similarity of each gene's map, spots taken as pixels :cite:p:`wang2004ssim`.

    .. math:: \mathrm{SSIM} = \frac{(2 \mu_y \mu_{\hat y} + C_1)(2 \sigma_{y \hat y} + C_2)}
        {(\mu_y^2 + \mu_{\hat y}^2 + C_1)(\sigma_y^2 + \sigma_{\hat y}^2 + C_2)}

    at every spot, averaged over spots. Means and (co)variances are weighted by a Gaussian window
    that is cut at 3.5 ``sigma``; :math:`C_1 = (0.01 L)^2` and :math:`C_2 = (0.03 L)^2`. Cells of
    the grid without a measured spot have weight 0 and the other weights are scaled up, so that
    holes and the border of the tissue need no made-up values. The window counts steps of the
    array: on Visium's hexagon, where neighbours in a row are two columns apart, it is narrower
    along the rows than across them.

    Parameters
    ----------
    y_true
        Measured expression ``[n_spots, n_genes]``. NaN marks a value that was not measured.
    y_pred
        Predicted expression, of the same shape.
    array_index
        Row and column of each spot on the array, integers ``[n_spots, 2]``.
    groups
        Slide of each spot; needed where spots of different slides share a place.
    sigma
        Width of the window in steps of the array.
    data_range
        :math:`L`, one number for all genes. By default the range of the measured values of the
        gene on the slide. The larger it is, the more alike flat maps look.
    patients, average
        As in :func:`pearson`; ``"pooled"`` needs spots of one slide.

    Returns
    -------
    Float64 ``[n_genes]``, at most 1; NaN for a gene that is constant in ``y_true`` where
    ``data_range`` is not given.

    Raises
    ------
    InputValueError
        If the shapes do not fit, a value is infinite, two spots of a slide share a place, the
        index does not hold array positions, or an option is not positive.
    InputTypeError
        If the values are not numbers.
    """
    true, pred = as_pair(y_true, y_pred, groups=groups, patients=patients)
    index = _check_index(array_index, len(true))
    for name, value in (("sigma", sigma), ("data_range", data_range)):
        if value is not None and not value > 0:
            msg = f"{name} is {value}; a positive number is needed"
            raise InputValueError(msg)

    def on_slide(
        true: NDArray[np.float64], pred: NDArray[np.float64], index: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        return nanmean(_ssim_of_spots(true, pred, index, sigma, data_range))

    return mean_over_groups(on_slide, (true, pred, index), groups, patients, average)


def _ssim_of_spots(
    true: NDArray[np.float64],
    pred: NDArray[np.float64],
    index: NDArray[np.int64],
    sigma: float,
    data_range: float | None,
) -> NDArray[np.float64]:
    """Structural similarity at each spot of one slide, for each gene."""
    row, column = (index - index.min(axis=0)).T
    shape = (int(row.max()) + 1, int(column.max()) + 1)
    _check_grid(row * shape[1] + column, shape)
    limits = value_range(true) if data_range is None else np.full(true.shape[1], data_range)
    result = np.full(true.shape, np.nan)
    step = max(1, _CELLS_AT_ONCE // (shape[0] * shape[1]))
    for start in range(0, true.shape[1], step):
        genes = slice(start, start + step)
        x, y = np.full((2, *shape, len(limits[genes])), np.nan)
        x[row, column], y[row, column] = true[:, genes], pred[:, genes]
        result[:, genes] = _ssim_map(x, y, limits[genes], sigma)[row, column]
    result[np.isnan(true)] = np.nan
    result[:, ~(limits > 0)] = np.nan
    return result


def _ssim_map(
    x: NDArray[np.float64], y: NDArray[np.float64], limits: NDArray[np.float64], sigma: float
) -> NDArray[np.float64]:
    """Structural similarity of maps ``[n_rows, n_columns, n_genes]`` with NaN for holes."""
    known = ~np.isnan(x)

    def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
        filtered: NDArray[np.float64] = gaussian_filter(
            values, sigma, axes=(0, 1), mode="constant", truncate=_TRUNCATE
        )
        return filtered

    weight = smooth(known.astype(np.float64))
    weight = np.where(weight > 0, weight, np.nan)

    def local(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return smooth(np.where(known, values, 0)) / weight

    mean_x, mean_y = local(x), local(y)
    variances = local(x * x) - mean_x**2 + local(y * y) - mean_y**2
    covariance = local(x * y) - mean_x * mean_y
    c1, c2 = (_K1 * limits) ** 2, (_K2 * limits) ** 2
    similar = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    size = (mean_x**2 + mean_y**2 + c1) * (variances + c2)
    return similar / np.where(size == 0, np.nan, size)


def _check_index(array_index: ArrayLike, n_spots: int) -> NDArray[np.int64]:
    index = as_matrix(array_index, "array_index")
    if index.shape != (n_spots, 2):
        msg = f"array_index has the shape {index.shape}; [{n_spots}, 2] is needed, row and column"
        raise InputValueError(msg)
    if not np.array_equal(index, np.round(index)):
        msg = "array_index holds values that are not integers; pass rows and columns of the array"
        raise InputValueError(msg)
    return index.astype(np.int64)


def _check_grid(places: NDArray[np.int64], shape: tuple[int, int]) -> None:
    if shape[0] * shape[1] > _MAX_CELLS_PER_SPOT * max(len(places), 100):
        msg = (
            f"array_index spans {shape[0]} x {shape[1]} places for {len(places)} spots; pass rows "
            "and columns of the array, not positions in pixels"
        )
        raise InputValueError(msg)
    if n_shared := len(places) - len(np.unique(places)):
        msg = f"{n_shared} spots share their place on the array with another; pass slides as groups"
        raise InputValueError(msg)
