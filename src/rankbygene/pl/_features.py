"""Whether image features know about expression: clusters and distances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError
from rankbygene.metrics import v_measure
from rankbygene.metrics._clustering import k_means_labels
from rankbygene.metrics._distance import r_squared, sampled_distances
from rankbygene.pl._predictions import dense, feature_sets, matrix, one_slide
from rankbygene.pl._style import (
    BLUE,
    MISSING,
    ORANGE,
    bare,
    few_ticks,
    finish,
    is_first_column,
    legend_beside,
    open_panels,
    palette,
    root_figure,
)

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

# More points than this hide each other; they are counted in hexagons instead.
_MOST_POINTS = 2000
_COMPONENTS = 50


# Slides may be named by numbers.
@checked(slide=None)
def embedding_clusters(
    adata: AnnData,
    features: str | Mapping[str, str | ArrayLike],
    *,
    k: int,
    layer: str | None = None,
    slide: str | None = None,
    slide_key: str = "slide",
    method: Literal["tsne", "umap"] = "tsne",
    seed: int = 0,
    ax: Axes | None = None,
    show: bool = False,
    save: str | Path | None = None,
) -> NDArray[np.object_]:
    """Draw image features in two dimensions, coloured by clusters of expression.

    As figure 1 of :cite:p:`huang2024rankbygene`: expression is clustered by K-means and gives the
    colours, which are the same in all panels. The title has the V-measure of K-means clusters of
    the features against them (:func:`rankbygene.metrics.v_measure`); it does not depend on the
    embedding.

    Parameters
    ----------
    adata
        Spots by genes.
    features
        ``{name: key of obsm, or array [n_obs, n_features]}``, a panel each; or one key.
    k
        Number of clusters. The paper does not state its own.
    layer
        Layer with the expression to cluster; ``X`` by default.
    slide
        Which slide; may be left out when there is one. Slides are not drawn together, because
        clusters would then be slides.
    slide_key
        Column of ``obs`` that names the slides.
    method
        Embedding: t-SNE, or UMAP on the 15 nearest neighbours.
    seed
        Seed of K-means and of the embedding.
    ax
        Axes to draw in, for one set of features; by default a new figure.
    show
        Call ``matplotlib.pyplot.show``.
    save
        File to write.

    Returns
    -------
    The axes, one per set of features.

    Raises
    ------
    InputKeyError
        ``obsm``, the layer or the slide is missing.
    InputValueError
        ``k`` or an array does not fit the spots, a value is missing, or the slide has to be named.
    """
    if method not in ("tsne", "umap"):
        msg = f"method is {method!r}; allowed are 'tsne' and 'umap'"
        raise InputValueError(msg)
    rows = one_slide(adata, slide, slide_key)
    sets = feature_sets(adata, features, rows)
    expression = dense(matrix(adata, layer)[rows])
    scores = {name: v_measure(values, expression, k, seed) for name, values in sets.items()}
    labels = _by_size(k_means_labels(expression, k, seed))
    colors = palette(k)
    axes = open_panels(ax, len(sets), (2.8, 3.1))
    for panel, (name, values) in zip(axes, sets.items(), strict=True):
        points = _embed(values, method, seed)
        size = float(np.clip(4000 / len(points), 3, 18))
        panel.scatter(*points.T, s=size, c=np.array(colors)[labels], linewidths=0, rasterized=True)
        found = scores[name]
        text = f"V = {found.v:.2f}  (h {found.homogeneity:.2f}, c {found.completeness:.2f})"
        panel.set_title(f"{name}\n{text}", fontsize="medium")
        panel.set(xticks=[], yticks=[], box_aspect=1)
        panel.spines[:].set_color(MISSING)
        panel.set_xlabel({"tsne": "t-SNE", "umap": "UMAP"}[method], fontsize="small")
    legend_beside(root_figure(axes[0]), _cluster_handles(labels, colors), "expression\ncluster")
    finish(root_figure(axes[0]), show=show, save=save)
    return axes


# Slides may be named by numbers.
@checked(slide=None)
def distance_agreement(
    adata: AnnData,
    features: str | Mapping[str, str | ArrayLike],
    *,
    layer: str | None = None,
    slide: str | None = None,
    slide_key: str = "slide",
    metric: Literal["cosine", "euclidean"] = "cosine",
    n_pairs: int = 1000,
    seed: int = 0,
    ax: Axes | None = None,
    show: bool = False,
    save: str | Path | None = None,
) -> NDArray[np.object_]:
    """Draw distances between spots in the image against distances in expression.

    As figure 4 of :cite:p:`huang2024rankbygene`: each point is a pair of spots, drawn at random and
    the same in all panels, with the straight line through them and its :math:`R^2`
    (:func:`rankbygene.metrics.distance_r2`).

    Parameters
    ----------
    adata
        Spots by genes.
    features
        ``{name: key of obsm, or array [n_obs, n_features]}``, a panel each; or one key.
    layer
        Layer with the expression; ``X`` by default.
    slide
        Which slide; may be left out when there is one.
    slide_key
        Column of ``obs`` that names the slides.
    metric
        Distance, the same for both.
    n_pairs
        Number of pairs; the paper draws 100. More than 2,000 are counted in hexagons.
    seed
        Seed of the draw.
    ax
        Axes to draw in, for one set of features; by default a new figure.
    show
        Call ``matplotlib.pyplot.show``.
    save
        File to write.

    Returns
    -------
    The axes, one per set of features.

    Raises
    ------
    InputKeyError
        ``obsm``, the layer or the slide is missing.
    InputValueError
        An array does not fit the spots, a value is missing, there are fewer than three spots or
        pairs, or the slide has to be named.
    """
    rows = one_slide(adata, slide, slide_key)
    sets = feature_sets(adata, features, rows)
    expression = dense(matrix(adata, layer)[rows])
    axes = open_panels(ax, len(sets), (3.0, 3.2))
    for panel, (name, values) in zip(axes, sets.items(), strict=True):
        image, genes = sampled_distances(
            values, expression, metric=metric, n_pairs=n_pairs, seed=seed
        )
        _draw_distances(panel, genes, image)
        title = f"{name}\n$R^2$ = {r_squared(image, genes):.3f}, {len(image):,} pairs"
        panel.set_title(title, fontsize="medium")
        panel.set_xlabel(f"{metric} distance in expression")
        if is_first_column(panel):
            panel.set_ylabel(f"{metric} distance in the image")
        bare(panel)
        few_ticks(panel)
    finish(root_figure(axes[0]), show=show, save=save)
    return axes


def _embed(values: NDArray[np.float64], method: str, seed: int) -> NDArray[np.float64]:
    """Bring features to two dimensions, by way of their first principal components."""
    from sklearn.decomposition import PCA

    components = min(_COMPONENTS, *values.shape)
    reduced = PCA(components, random_state=seed).fit_transform(values)
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(values) - 1) / 3)
        embedded: Any = TSNE(perplexity=perplexity, random_state=seed).fit_transform(reduced)
        return np.asarray(embedded, dtype=np.float64)
    import anndata as ad
    import scanpy as sc

    spots = ad.AnnData(reduced)
    sc.pp.neighbors(spots, n_neighbors=15, use_rep="X", random_state=seed)
    sc.tl.umap(spots, random_state=seed)
    return np.asarray(spots.obsm["X_umap"], dtype=np.float64)


def _by_size(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number clusters from the largest to the smallest, so that colours do not depend on chance."""
    order = np.argsort(-np.bincount(labels), kind="stable")
    return np.argsort(order)[labels]


def _cluster_handles(labels: NDArray[np.int64], colors: list[str]) -> list[object]:
    from matplotlib.lines import Line2D

    sizes = np.bincount(labels, minlength=len(colors))
    return [
        Line2D([], [], marker="o", linestyle="", color=color, label=f"{i + 1} ({size:,} spots)")
        for i, (color, size) in enumerate(zip(colors, sizes, strict=True))
    ]


def _draw_distances(ax: Axes, genes: NDArray[np.float64], image: NDArray[np.float64]) -> None:
    known = np.isfinite(genes) & np.isfinite(image)
    x, y = genes[known], image[known]
    if len(x) > _MOST_POINTS:
        ax.hexbin(x, y, gridsize=35, cmap="Blues", mincnt=1, linewidths=0, bins="log")
    else:
        ax.scatter(x, y, s=8, color=BLUE, alpha=0.4, linewidths=0, rasterized=True)
    if np.ptp(x) > 0:
        slope, intercept = np.polyfit(x, y, 1)
        ends = np.array([x.min(), x.max()])
        ax.plot(ends, intercept + slope * ends, color=ORANGE, linewidth=1.5)
