"""Every score against another implementation, on data with ties, missing values and constants.

``python tests/metrics/test_reference_agreement.py`` prints the table of the documentation.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from scipy import sparse, stats
from scipy.spatial.distance import jensenshannon
from skimage.metrics import structural_similarity
from sklearn import metrics as sk
from torchmetrics.functional import classification as tm_classes
from torchmetrics.functional import clustering as tm_clusters
from torchmetrics.functional import regression as tm_regression

from rankbygene import metrics
from rankbygene.metrics._ssim import _ssim_of_spots

N_GENES = 12
CONSTANT, CONSTANT_PRED, UNKNOWN = 3, 4, 5
CHECKS = {}


def check(name, reference, tolerance=1e-12):
    """Register a function that returns our values and those of the reference."""

    def add(function):
        CHECKS[name, reference] = function, tolerance
        return function

    return add


def expression(rng, n_spots=80):
    """Make counts and predictions with ties, missing values and genes without a score."""
    true = rng.poisson(2.0, (n_spots, N_GENES)).astype(float)
    pred = np.round(true + rng.normal(scale=2.0, size=true.shape), 1)
    for values in (true, pred):
        values[rng.random(true.shape) < 0.1] = np.nan
    true[:, CONSTANT], pred[:, CONSTANT_PRED], true[:, UNKNOWN] = 0.1, 0.1, np.nan
    return true, pred


def both(values, reference, true, pred, without):
    """Pair the scores of genes with those of a reference on their known spots."""
    expected = []
    for gene in range(true.shape[1]):
        known = ~np.isnan(true[:, gene]) & ~np.isnan(pred[:, gene])
        has_score = gene not in without
        expected.append(reference(true[known, gene], pred[known, gene]) if has_score else np.nan)
    return values, np.array(expected, dtype=float)


def tensor(values):
    return torch.as_tensor(np.ascontiguousarray(values))


@check("pearson", "scipy.stats.pearsonr")
def check_pearson(rng):
    true, pred = expression(rng)
    reference = lambda t, p: stats.pearsonr(t, p).statistic
    without = (CONSTANT, CONSTANT_PRED, UNKNOWN)
    return both(metrics.pearson(true, pred), reference, true, pred, without)


@check("spearman", "scipy.stats.spearmanr")
def check_spearman(rng):
    true, pred = expression(rng)
    reference = lambda t, p: stats.spearmanr(t, p).statistic
    without = (CONSTANT, CONSTANT_PRED, UNKNOWN)
    return both(metrics.spearman(true, pred), reference, true, pred, without)


@check("pearson_per_spot", "scipy.stats.pearsonr")
def check_pearson_per_spot(rng):
    true, pred = expression(rng)
    reference = lambda t, p: stats.pearsonr(t, p).statistic
    return both(metrics.pearson_per_spot(true, pred), reference, true.T, pred.T, ())


@check("concordance", "torchmetrics concordance_corrcoef")
def check_concordance(rng):
    true, pred = expression(rng)
    values = metrics.concordance(true, pred)
    # with a constant prediction the reference divides 0 by 0
    assert values[CONSTANT_PRED] == pytest.approx(0)
    values[CONSTANT_PRED] = np.nan

    def reference(t, p):
        # the reference divides by n - 1; the ratio of the two is known
        n, shift = len(t), (t.mean() - p.mean()) ** 2
        there = tm_regression.concordance_corrcoef(tensor(p), tensor(t)).item()
        spread = t.var(ddof=1) + p.var(ddof=1)
        return there * (spread + shift) / (spread + shift * n / (n - 1))

    return both(values, reference, true, pred, (CONSTANT, CONSTANT_PRED, UNKNOWN))


@check("mse", "sklearn mean_squared_error")
def check_mse(rng):
    true, pred = expression(rng)
    return both(metrics.mse(true, pred), sk.mean_squared_error, true, pred, (UNKNOWN,))


@check("mae", "sklearn mean_absolute_error")
def check_mae(rng):
    true, pred = expression(rng)
    return both(metrics.mae(true, pred), sk.mean_absolute_error, true, pred, (UNKNOWN,))


@check("r2", "sklearn r2_score")
def check_r2(rng):
    true, pred = expression(rng)
    return both(metrics.r2(true, pred), sk.r2_score, true, pred, (CONSTANT, UNKNOWN))


def register_nrmse(normalizer):
    @check(f'nrmse("{normalizer}")', "torchmetrics normalized_root_mean_squared_error")
    def check_nrmse(rng):
        true, pred = expression(rng)
        values = metrics.nrmse(true, pred, normalizer=normalizer)
        reference = lambda t, p: tm_regression.normalized_root_mean_squared_error(
            tensor(p), tensor(t), normalization=normalizer
        ).item()
        without = (CONSTANT, UNKNOWN) if normalizer in ("range", "std") else (UNKNOWN,)
        return both(values, reference, true, pred, without)


for name in ("range", "std", "mean", "l2"):
    register_nrmse(name)


@check("variance_ratio", "numpy.var")
def check_variance_ratio(rng):
    true, pred = expression(rng)
    reference = lambda t, p: np.var(p) / np.var(t)
    return both(metrics.variance_ratio(true, pred), reference, true, pred, (CONSTANT, UNKNOWN))


@check("relative_variation_distance", "numpy.var, as in Stem")
def check_rvd(rng):
    true, pred = expression(rng)
    reference = lambda t, p: (np.var(p) - np.var(t)) ** 2 / np.var(t) ** 2
    values = metrics.relative_variation_distance(true, pred)
    return both(values, reference, true, pred, (CONSTANT, UNKNOWN))


@check("jensen_shannon", "scipy.spatial.distance.jensenshannon")
def check_jensen_shannon(rng):
    true, pred = expression(rng)
    reference = lambda t, p: jensenshannon(t, np.maximum(p, 0), base=2) ** 2
    return both(metrics.jensen_shannon(true, pred), reference, true, pred, (UNKNOWN,))


@check("auc_expressed", "sklearn roc_auc_score")
def check_auc_expressed(rng):
    true, pred = expression(rng)
    reference = lambda t, p: sk.roc_auc_score(t > 0, p)
    return both(metrics.auc_expressed(true, pred), reference, true, pred, (CONSTANT, UNKNOWN))


@check("ssim, away from the border of a full grid", "skimage structural_similarity")
def check_ssim(rng):
    shape, inner = (23, 19), slice(5, -5)
    index = np.column_stack([axis.ravel() for axis in np.indices(shape)])
    true = rng.poisson(2.0, (len(index), 3)).astype(float)
    pred = np.round(true + rng.normal(scale=2.0, size=true.shape), 1)
    values = _ssim_of_spots(true, pred, index, 1.5, None)
    maps, expected = [], []
    for gene in range(3):
        x, y = true[:, gene].reshape(shape), pred[:, gene].reshape(shape)
        full = structural_similarity(
            x,
            y,
            data_range=np.ptp(x),
            gaussian_weights=True,
            use_sample_covariance=False,
            full=True,
        )[1]
        maps.append(values[:, gene].reshape(shape)[inner, inner])
        expected.append(full[inner, inner])
    return np.array(maps), np.array(expected)


@check("moran_agreement", "scanpy.metrics.morans_i")
def check_moran(rng):
    true, pred = expression(rng)
    graph = sparse.csr_array((rng.random((80, 80)) < 0.1).astype(float))
    result = metrics.moran_agreement(true, pred, graph)
    found, expected = [], []
    for values, scores in ((true, result.true), (pred, result.pred)):
        for gene in range(N_GENES):
            known = ~np.isnan(true[:, gene]) & ~np.isnan(pred[:, gene])
            column, found = values[known, gene], [*found, scores[gene]]
            if known.any() and np.ptp(column) > 0:
                part = sparse.csr_matrix(graph[known][:, known])
                expected.append(sc.metrics.morans_i(part, column))
            else:
                expected.append(np.nan)
    return np.array(found), np.array(expected)


@check("gene_correlation_agreement", "pandas.DataFrame.corr")
def check_gene_correlation(rng):
    true, pred = expression(rng)
    missing = np.isnan(true) | np.isnan(pred)
    above = np.triu_indices(N_GENES, 1)
    pairs = [
        pd.DataFrame(np.where(missing, np.nan, y)).corr().to_numpy()[above] for y in (true, pred)
    ]
    known = ~np.isnan(pairs).any(axis=0)
    expected = stats.pearsonr(pairs[0][known], pairs[1][known]).statistic
    return metrics.gene_correlation_agreement(true, pred), expected


@check("recall_at_k", "sklearn top_k_accuracy_score")
def check_recall(rng):
    image = rng.normal(size=(60, 8))
    gene = image + rng.normal(size=(60, 8))
    similarity = sk.pairwise.cosine_similarity(image, gene)
    expected = [sk.top_k_accuracy_score(np.arange(60), s, k=5) for s in (similarity, similarity.T)]
    return np.array(metrics.recall_at_k(image, gene, 5)), expected


@check("rank_agreement", "scipy.stats.kendalltau, pearsonr")
def check_rank_agreement(rng):
    a, b = rng.normal(size=(2, 20, 20))
    others = [np.delete(np.arange(20), i) for i in range(20)]
    rows = [(a[i, o], b[i, o]) for i, o in enumerate(others)]
    pearson = np.mean([stats.pearsonr(*pair).statistic for pair in rows])
    accuracy = np.mean([(1 + stats.kendalltau(*pair).statistic) / 2 for pair in rows])
    return np.array(metrics.rank_agreement(a, b, metric="precomputed")), [pearson, accuracy]


@check("distance_r2", "scipy.stats.linregress")
def check_distance(rng):
    image, gene = rng.normal(size=(2, 15, 4))
    distances = [sk.pairwise.euclidean_distances(m)[np.triu_indices(15, 1)] for m in (gene, image)]
    expected = stats.linregress(*distances).rvalue ** 2
    return metrics.distance_r2(image, gene, metric="euclidean", n_pairs=1000), expected


def register_clustering(name, function, reference):
    @check(name, f"torchmetrics {reference.__name__}", 1e-6)
    def check_clusters(rng):
        true, pred = rng.integers(0, 4, (2, 80))
        pred = np.where(rng.random(80) < 0.5, true, pred)
        return function(true, pred), reference(tensor(pred), tensor(true)).item()


register_clustering("ari", metrics.ari, tm_clusters.adjusted_rand_score)
register_clustering("nmi", metrics.nmi, tm_clusters.normalized_mutual_info_score)
register_clustering(
    "v_measure_of_labels",
    lambda t, p: metrics.v_measure_of_labels(t, p).v,
    tm_clusters.v_measure_score,
)


@check("pas", "loop over all distances")
def check_pas(rng):
    labels, points = rng.integers(0, 3, 70), rng.random((70, 2))
    labels = np.where(points[:, 0] < 0.5, 0, labels)
    distances = sk.pairwise.euclidean_distances(points)
    np.fill_diagonal(distances, np.inf)
    near = np.argsort(distances, axis=1)[:, :10]
    return metrics.pas(labels, points), np.mean((labels[near] != labels[:, None]).sum(axis=1) > 5)


@check("chaos", "loop over all distances")
def check_chaos(rng):
    labels, points = rng.integers(0, 3, 70), rng.random((70, 2)) * [10, 3]
    labels[:2] = 7
    distances = sk.pairwise.euclidean_distances(stats.zscore(points))
    distances[(labels[:, None] != labels) | np.eye(70, dtype=bool)] = np.inf
    return metrics.chaos(labels, points), distances.min(axis=1)[2:].sum() / 70


def classes(rng):
    true = rng.integers(0, 3, 60)
    scores = np.round(np.eye(3)[true] + rng.normal(size=(60, 3)), 1)
    return true, scores


@check("balanced_accuracy", "sklearn balanced_accuracy_score")
def check_balanced_accuracy(rng):
    true, scores = classes(rng)
    pred = scores.argmax(axis=1)
    return metrics.balanced_accuracy(true, pred), sk.balanced_accuracy_score(true, pred)


@check("macro_f1", "torchmetrics multiclass_f1_score", 1e-6)
def check_macro_f1(rng):
    true, scores = classes(rng)
    pred = scores.argmax(axis=1)
    expected = tm_classes.multiclass_f1_score(tensor(pred), tensor(true), 3, average="macro")
    return metrics.macro_f1(true, pred), expected.item()


@check("auroc", "scipy.stats.mannwhitneyu")
def check_auroc(rng):
    true, scores = classes(rng)
    binary = [
        stats.mannwhitneyu(column[true == c], column[true != c]).statistic
        / (np.sum(true == c) * np.sum(true != c))
        for c, column in enumerate(scores.T)
    ]
    found = [metrics.auroc(true, scores), metrics.auroc(true == 2, scores[:, 2])]
    return np.array(found), [np.mean(binary), binary[2]]


@check("auprc", "torchmetrics multiclass_average_precision", 1e-6)
def check_auprc(rng):
    true, scores = classes(rng)
    ranks = stats.rankdata(scores, method="dense").reshape(scores.shape) / scores.size
    expected = tm_classes.multiclass_average_precision(tensor(ranks), tensor(true), 3)
    return metrics.auprc(true, scores), expected.item()


def patients(rng, n=90, *, tied):
    time, event = rng.exponential(5.0, n) + 0.1, rng.random(n) < 0.6
    risk = np.round(-np.log(time) + rng.normal(size=n), 1)
    return (np.ceil(time) if tied else time), event, risk


@check("concordance_index", "lifelines concordance_index")
def check_concordance_index(rng):
    lifelines = pytest.importorskip("lifelines")
    time, event, risk = patients(rng, tied=True)
    expected = lifelines.utils.concordance_index(time, -risk, event)
    return metrics.concordance_index(time, event, risk), expected


@check("concordance_index_ipcw", "torchsurv ConcordanceIndex", 1e-6)
def check_uno(rng):
    cindex = pytest.importorskip("torchsurv.metrics.cindex").ConcordanceIndex()
    time, event, risk = patients(rng, tied=False)
    expected = cindex(
        tensor(risk), tensor(event), tensor(time), weight=weights(event, time), tmax=tensor(8.0)
    )
    return metrics.concordance_index_ipcw(time, event, risk, tau=8.0), expected.item()


@check("time_dependent_auc", "torchsurv Auc", 1e-6)
def check_auc(rng):
    auc = pytest.importorskip("torchsurv.metrics.auc").Auc()
    time, event, risk = patients(rng, tied=False)
    times = np.quantile(time, [0.2, 0.5, 0.7])
    expected = auc(
        tensor(risk),
        tensor(event),
        tensor(time),
        weight=weights(event, time),
        new_time=tensor(times),
        weight_new_time=weights(event, time, times),
    )
    return metrics.time_dependent_auc(time, event, risk, times), expected.numpy()


def brier(rng):
    score = pytest.importorskip("torchsurv.metrics.brier_score").BrierScore()
    time, event, risk = patients(rng, tied=False)
    times = np.quantile(time, [0.1, 0.3, 0.5, 0.7])
    survival = np.exp(-np.outer(np.exp(risk), times) / 10)
    values = score(
        tensor(survival),
        tensor(event),
        tensor(time),
        tensor(times),
        weight=weights(event, time),
        weight_new_time=weights(event, time, times),
    )
    return (time, event, survival, times), values.numpy(), score.integral().item()


@check("brier_score", "torchsurv BrierScore", 1e-6)
def check_brier(rng):
    data, values, _ = brier(rng)
    return metrics.brier_score(*data), values


@check("integrated_brier_score", "torchsurv BrierScore.integral", 1e-6)
def check_integrated_brier(rng):
    data, _, integral = brier(rng)
    return metrics.integrated_brier_score(*data), integral


@check("logrank", "lifelines multivariate_logrank_test")
def check_logrank(rng):
    statistics = pytest.importorskip("lifelines.statistics")
    time, event, _ = patients(rng, tied=True)
    groups = rng.integers(0, 3, len(time))
    expected = statistics.multivariate_logrank_test(time, groups, event)
    found = np.array(metrics.logrank(time, event, groups))
    return found, [expected.test_statistic, expected.p_value]


@check("logrank, two groups", "scipy.stats.logrank")
def check_logrank_of_two(rng):
    time, event, _ = patients(rng, tied=True)
    group = rng.integers(0, 2, len(time)).astype(bool)
    data = [
        stats.CensoredData(uncensored=time[rows & event], right=time[rows & ~event])
        for rows in (group, ~group)
    ]
    expected = stats.logrank(*data)
    found = np.array(metrics.logrank(time, event, group))
    return found, [expected.statistic**2, expected.pvalue]


def weights(event, time, at=None):
    """Inverse probability of staying uncensored, by the reference's own Kaplan-Meier."""
    get_ipcw = pytest.importorskip("torchsurv.stats.ipcw").get_ipcw
    return get_ipcw(tensor(event), tensor(time), None if at is None else tensor(at)).double()


def largest_difference(function, n_draws=5):
    """Largest absolute difference to the reference; a score that only one has is infinite."""
    worst = 0.0
    for seed in range(n_draws):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, expected = map(np.asarray, function(np.random.default_rng(seed)))
        assert found.shape == expected.shape
        assert np.isfinite(expected).any()
        if not np.array_equal(np.isnan(found), np.isnan(expected)):
            return np.inf
        worst = max(worst, float(np.nanmax(np.abs(found - expected))))
    return worst


@pytest.mark.parametrize(("name", "reference"), CHECKS, ids=lambda text: text)
def test_scores_agree_with_another_implementation(name, reference):
    function, tolerance = CHECKS[name, reference]
    assert largest_difference(function) <= tolerance


def test_every_score_is_documented_with_its_agreement():
    page = Path(__file__).parents[2] / "docs" / "user_guide" / "metrics.md"
    text = page.read_text(encoding="utf-8")
    missing = [name for name in metrics.__all__ if name[0].islower() and f".{name}`" not in text]
    assert missing == []
    assert [line for line in table_rows(measured=False) if line not in text] == []


def table_rows(*, measured):
    """Rows of the table; without their last cell where nothing is measured."""
    for (name, reference), (function, _) in CHECKS.items():
        score, _, remark = name.partition(", ")
        row = f"| `{score}`{remark and ', '}{remark} | {reference} |"
        yield f"{row} {largest_difference(function):.0e} |" if measured else row


if __name__ == "__main__":
    print("| score | reference | largest difference |\n|---|---|---|")
    print("\n".join(table_rows(measured=True)))
