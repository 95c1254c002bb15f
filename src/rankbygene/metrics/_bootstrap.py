"""How far a score would move with other slides, patients or genes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError, RankByGeneError
from rankbygene.metrics._inputs import as_matrix, as_pair, check_same_rows, group_codes, nanmean

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# cells of one block of resampled means; bounds the memory at about 100 MB
_CELLS_AT_ONCE = 4_000_000


class BootstrapInterval(NamedTuple):
    """A statistic with its percentile interval.

    Attributes
    ----------
    estimate
        The statistic of the data as they are.
    low, high
        Quantiles of the statistic over resamples of the data.
    p_value
        Two-sided: how surprising the estimate would be if the true value were 0. At least
        ``1 / (n_resamples + 1)``. Meaningful for differences and correlations only.
    """

    estimate: float
    low: float
    high: float
    p_value: float


@checked
def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    *,
    n_resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> BootstrapInterval:
    r"""Compare two methods scored on the same slides and genes.

    The statistic is the difference :math:`d_{sg} = a_{sg} - b_{sg}`, averaged over slides within
    each gene and then over genes. Slides and genes are drawn independently with replacement, the
    two-way "pigeonhole" bootstrap :cite:p:`owen2007pigeonhole`: genes measured on the same slides
    are not independent, so resampling genes alone gives intervals that are far too narrow. The
    pigeonhole bootstrap errs on the wide side where neither slides nor genes matter.

    With one slide only the genes are resampled; the interval then says nothing about other
    slides. With few slides (below about ten) percentile intervals are too narrow, by a factor of
    about :math:`\sqrt{(n - 1)/n}`.

    Parameters
    ----------
    a, b
        Scores of the two methods ``[n_slides, n_genes]``. NaN marks a score that does not exist;
        a cell that lacks one of them is left out of both. Slides of one patient are not
        independent: average them first and pass patients as rows.
    n_resamples
        Number of resamples.
    seed
        Seed of the draws.
    level
        Share of the resamples between ``low`` and ``high``.

    Returns
    -------
    Difference, interval and p-value; the estimate is positive where ``a`` is larger. All NaN
    where no cell has both scores; interval and p-value NaN where a single cell is left.

    Raises
    ------
    InputValueError
        If the shapes differ, a value is infinite, or an option is out of its range.
    InputTypeError
        If the values are not numbers.

    Examples
    --------
    >>> ours = [[0.5, 0.4, 0.6], [0.3, 0.4, 0.5]]
    >>> ridge = [[0.4, 0.3, 0.5], [0.2, 0.3, 0.4]]
    >>> round(paired_bootstrap(ours, ridge).low, 3)
    0.1
    """
    first, second = as_pair(a, b, ("a", "b"))
    return bootstrap_mean(first - second, n_resamples=n_resamples, seed=seed, level=level)


@checked
def bootstrap_mean(
    a: ArrayLike, *, n_resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> BootstrapInterval:
    """Mean score of one method, with an interval over slides and genes.

    The mean over slides within each gene, then over genes; resampled as in
    :func:`paired_bootstrap`.

    Parameters
    ----------
    a
        Scores ``[n_slides, n_genes]``; NaN marks a score that does not exist.
    n_resamples, seed, level
        As in :func:`paired_bootstrap`.

    Returns
    -------
    Mean, interval and p-value of a mean of 0; NaN as in :func:`paired_bootstrap`.

    Raises
    ------
    InputValueError
        If a value is infinite, or an option is out of its range.
    InputTypeError
        If the values are not numbers.
    """
    _check_options(n_resamples, level)
    scores = as_matrix(a, "a")
    known = ~np.isnan(scores)
    # a slide or gene without any score is no slide or gene to draw
    scores = scores[np.ix_(known.any(axis=1), known.any(axis=0))]
    if scores.size == 0:
        return BootstrapInterval(np.nan, np.nan, np.nan, np.nan)
    estimate = float(nanmean(scores).mean())
    if scores.size == 1:
        return BootstrapInterval(estimate, np.nan, np.nan, np.nan)
    return _interval(estimate, _resampled_means(scores, n_resamples, seed), level)


@checked
def bootstrap_interval(
    statistic: Callable[..., float],
    *arrays: ArrayLike,
    groups: ArrayLike | None = None,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> BootstrapInterval:
    """Percentile interval of any statistic of rows :cite:p:`efron1993bootstrap`.

    Rows are drawn with replacement, or whole groups of rows where ``groups`` says which patient
    or slide a row belongs to. Rows of one patient resemble each other; drawing them one by one
    pretends that each is a new patient.

    Parameters
    ----------
    statistic
        Called with the arrays, rows resampled; returns one number.
    *arrays
        Arrays with one entry, or row, per observation.
    groups
        Patient or slide of each row.
    n
        Number of resamples.
    seed
        Seed of the draws.
    level
        Share of the resamples between ``low`` and ``high``.

    Returns
    -------
    The statistic, its interval, and the p-value of a statistic of 0. Interval and p-value are NaN
    where there is one row or group only, or the statistic itself is NaN.

    Raises
    ------
    InputValueError
        If no array is given, their lengths differ, or an option is out of its range.

    Warns
    -----
    UserWarning
        If the statistic is NaN in some resamples, such as an AUC without a positive; the interval
        is that of the others.

    Examples
    --------
    >>> import numpy as np
    >>> interval = bootstrap_interval(np.median, np.arange(101.0))
    >>> bool(interval.low < interval.estimate < interval.high)
    True
    """
    _check_options(n, level)
    named = {f"array {i}": values for i, values in enumerate(arrays, start=1)}
    check_same_rows(**named, groups=groups)
    columns = [np.asarray(values) for values in arrays]
    lengths = {len(column) if column.ndim else 0 for column in columns}
    if len(lengths) != 1 or lengths == {0}:
        msg = (
            f"the arrays have {sorted(lengths)} rows; all have to have the same rows, at least one"
        )
        raise InputValueError(msg)
    (n_rows,) = lengths
    codes = np.arange(n_rows) if groups is None else group_codes(groups, n_rows)
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    estimate = _value_of(statistic, columns)
    if len(members) < 2 or np.isnan(estimate):
        return BootstrapInterval(estimate, np.nan, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    values = np.empty(n)
    for i in range(n):
        drawn = rng.integers(len(members), size=len(members))
        rows = np.concatenate([members[group] for group in drawn])
        values[i] = _value_of(statistic, [column[rows] for column in columns])
    if n_missing := int(np.isnan(values).sum()):
        text = f"the statistic is NaN in {n_missing} of {n} resamples; they are left out"
        warnings.warn(text, UserWarning, stacklevel=2)
    return _interval(estimate, values, level)


def _value_of(statistic: Callable[..., float], columns: Sequence[NDArray[Any]]) -> float:
    """Compute a statistic that somebody else wrote."""
    try:
        return float(statistic(*columns))
    except RankByGeneError:
        raise
    except Exception as error:
        msg = (
            f"statistic fails on the arrays ({type(error).__name__}: {error}); pass a function that takes them, "
            "in this order, and returns one number"
        )
        raise InputValueError(msg) from error


def _resampled_means(
    scores: NDArray[np.float64], n_resamples: int, seed: int
) -> NDArray[np.float64]:
    """Mean over genes of the mean over slides, both drawn with replacement."""
    rng = np.random.default_rng(seed)
    n_slides, n_genes = scores.shape
    known = ~np.isnan(scores)
    filled, counted = np.where(known, scores, 0), known.astype(np.float64)
    means = np.empty(n_resamples)
    step = max(1, _CELLS_AT_ONCE // max(scores.shape))
    for start in range(0, n_resamples, step):
        size = min(step, n_resamples - start)
        # how often each slide and gene is drawn is all that a mean needs
        slides = rng.multinomial(n_slides, np.full(n_slides, 1 / n_slides), size=size)
        genes = rng.multinomial(n_genes, np.full(n_genes, 1 / n_genes), size=size)
        times = slides @ counted
        of_gene = np.divide(slides @ filled, times, out=np.zeros_like(times), where=times > 0)
        n_drawn = np.sum(genes * (times > 0), axis=1)
        total = np.sum(genes * of_gene, axis=1)
        part = means[start : start + size]
        np.divide(total, n_drawn, out=part, where=n_drawn > 0)
        part[n_drawn == 0] = np.nan
    return means


def _interval(estimate: float, values: NDArray[np.float64], level: float) -> BootstrapInterval:
    values = values[~np.isnan(values)]
    if values.size == 0:
        return BootstrapInterval(estimate, np.nan, np.nan, np.nan)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    # the data themselves count as one resample, so that no p-value is 0
    one_side = 1 + min(np.sum(values <= 0), np.sum(values >= 0))
    return BootstrapInterval(
        estimate, float(low), float(high), float(min(1, 2 * one_side / (len(values) + 1)))
    )


def _check_options(n_resamples: int, level: float) -> None:
    if n_resamples < 1:
        msg = f"there are {n_resamples} resamples; at least one is needed"
        raise InputValueError(msg)
    if not 0 < level < 1:
        msg = f"level is {level}; a share between 0 and 1 is needed, such as 0.95"
        raise InputValueError(msg)
