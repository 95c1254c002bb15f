"""Reading what pictures show out of an AnnData: slides, positions, genes, feature sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from rankbygene._keys import Keys
from rankbygene._names import label_texts
from rankbygene.data import Normalization
from rankbygene.errors import InputKeyError, InputValueError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import ArrayLike, NDArray


# Enough rows to tell counts from other values.
_SAMPLED_ROWS = 2000


def gene_list(adata: AnnData, genes: str | Sequence[str]) -> list[str]:
    """Read the genes to draw.

    Raises
    ------
    InputKeyError
        One is not in ``adata.var_names``.
    InputValueError
        There is none.
    """
    names = [genes] if isinstance(genes, str) else list(genes)
    missing = [gene for gene in names if gene not in adata.var_names]
    if missing:
        msg = (
            f"adata.var_names has no {', '.join(map(repr, missing[:5]))}; it has {adata.n_vars:,} "
            f"genes ({', '.join(map(str, adata.var_names[:5]))}, ...)"
        )
        raise InputKeyError(msg)
    if not names:
        msg = "`genes` is empty; name at least one gene"
        raise InputValueError(msg)
    return names


def matrix(adata: AnnData, layer: str | None) -> Any:
    """Give a layer, or ``X`` where ``layer`` is None.

    Raises
    ------
    InputKeyError
        There is no such layer.
    """
    if layer is None:
        return adata.X
    if layer not in adata.layers:
        msg = f"adata.layers has no {layer!r}; it has {_names(adata.layers)}"
        raise InputKeyError(msg)
    return adata.layers[layer]


def gene_values(adata: AnnData, genes: Sequence[str], layer: str | None) -> NDArray[np.float64]:
    """Read genes of a layer as dense float64 ``[n_obs, n_genes]``."""
    values = matrix(adata, layer)[:, adata.var_names.get_indexer(list(genes))]
    return dense(values)


def measured_and_predicted(
    adata: AnnData, genes: Sequence[str], layer: str, measured: str | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read measured and predicted values of genes, which have to be of one scale.

    Raises
    ------
    InputKeyError
        There is no such layer.
    InputValueError
        One holds counts and the other does not, or values are larger than the scale of the model
        allows.
    """
    truth, predicted = matrix(adata, measured), matrix(adata, layer)
    slot = "adata.X" if measured is None else f"layer {measured!r}"
    found = adata.uns.get(Keys(layer).params, {}).get("normalization")
    scale = "values that are no counts"
    if found is not None:
        normalization = Normalization.from_dict(found)
        scale = _scale_text(normalization)
    problem = ""
    if _is_whole(truth) and not _is_whole(predicted):
        problem = "holds counts"
    elif found is not None:
        limit = float(normalization.from_counts(np.array([normalization.target_sum]))[0])
        largest = _largest(truth)
        if largest > limit * (1 + 1e-6):
            problem = f"holds values up to {largest:g}, which that scale cannot reach"
    if problem:
        msg = (
            f"{slot} {problem}, layer {layer!r} holds {scale}: they cannot be compared. Pass "
            "measured=... (a layer with the measured values on that scale), or draw the annotated "
            "SpatialData with `pl.spatial_expression`, which brings its counts there"
        )
        raise InputValueError(msg)
    return gene_values(adata, genes, measured), gene_values(adata, genes, layer)


def _scale_text(normalization: Normalization) -> str:
    text = f"counts per {normalization.target_sum:g}"
    if normalization.log_base != "none":
        text = f"log(1 + {text}) to base {normalization.log_base}"
    return text + (", smoothed" if normalization.neighbourhood != "none" else "")


def _stored(values: Any) -> NDArray[Any]:
    """Give the values of some rows, evenly spaced; of a sparse matrix those that it stores."""
    step = max(1, values.shape[0] // _SAMPLED_ROWS)
    rows = values[np.arange(0, values.shape[0], step)]
    rows = rows.toarray() if sparse.issparse(rows) else np.asarray(rows)
    return np.asarray(rows[np.isfinite(rows)])


def _is_whole(values: Any) -> bool:
    found = _stored(values)
    return bool(
        len(found) and found.any() and (found >= 0).all() and (found == np.rint(found)).all()
    )


def _largest(values: Any) -> float:
    return float(_stored(values).max(initial=-np.inf))


def score_text(r: float) -> str:
    """Write a correlation, or that there is none."""
    return "r not defined" if np.isnan(r) else f"r = {r:.2f}"


def dense(values: Any) -> NDArray[np.float64]:
    """Give a matrix as dense float64."""
    return np.asarray(values.toarray() if sparse.issparse(values) else values, dtype=np.float64)


def column(adata: AnnData, key: str) -> NDArray[np.str_]:
    """Read a column of ``obs`` as text.

    Raises
    ------
    InputKeyError
        There is no such column.
    InputValueError
        A spot has none.
    """
    if key not in adata.obs:
        msg = f"adata.obs has no {key!r}; it has {_names(adata.obs)}"
        raise InputKeyError(msg)
    names = label_texts(adata.obs[key], f"values of adata.obs[{key!r}]")
    missing = sum(name is None for name in names)
    if missing:
        msg = f"adata.obs[{key!r}] is missing for {missing:,} of {len(names):,} spots; name or drop them"
        raise InputValueError(msg)
    return names.astype(str)


def one_slide(adata: AnnData, slide: str | None, slide_key: str) -> NDArray[np.intp]:
    """Find the rows of a slide; all of them where the table has but one.

    Raises
    ------
    InputKeyError
        The table has no such slide, or no column that names slides.
    InputValueError
        The table has several slides and none was named.
    """
    if slide is None and slide_key not in adata.obs:
        return np.arange(adata.n_obs)
    slides = column(adata, slide_key)
    names = list(dict.fromkeys(slides.tolist()))
    if slide is None and len(names) > 1:
        msg = f"adata has {len(names)} slides; pass slide=... (one of {_names(names)})"
        raise InputValueError(msg)
    asked = names[0] if slide is None else label_texts([slide], "slide")[0]
    if asked not in names:
        msg = f"adata.obs[{slide_key!r}] has no {slide!r}; it has {_names(names)}"
        raise InputKeyError(msg)
    return np.flatnonzero(slides == asked)


def positions(adata: AnnData, key: str = "spatial") -> NDArray[np.float64]:
    """Read spot centres ``[n_obs, 2]``.

    Raises
    ------
    InputKeyError
        ``obsm`` does not hold them.
    """
    if key not in adata.obsm:
        msg = f"adata.obsm has no {key!r} with the spot centres; it has {_names(adata.obsm)}"
        raise InputKeyError(msg)
    return np.asarray(adata.obsm[key], dtype=np.float64)[:, :2]


def feature_sets(
    adata: AnnData,
    features: str | Mapping[str, str | ArrayLike],
    rows: NDArray[np.intp],
) -> dict[str, NDArray[np.float64]]:
    """Read sets of features of the spots in ``rows``: keys of ``obsm``, or arrays.

    Raises
    ------
    InputKeyError
        ``obsm`` has no such key.
    InputValueError
        An array has not one row per spot.
    """
    named = {features: features} if isinstance(features, str) else dict(features)
    found = {}
    for name, source in named.items():
        if isinstance(source, str) and source not in adata.obsm:
            msg = f"adata.obsm has no {source!r}; it has {_names(adata.obsm)}"
            raise InputKeyError(msg)
        values = dense(
            adata.obsm[source] if isinstance(source, str) else _by_name(source, adata, name)
        )
        if values.ndim != 2 or len(values) != adata.n_obs:
            msg = (
                f"features {name!r} have the shape {values.shape}; [n_obs, n_features] with "
                f"n_obs={adata.n_obs} is needed"
            )
            raise InputValueError(msg)
        found[name] = values[rows]
    return found


def _by_name(values: Any, adata: AnnData, name: str) -> Any:
    """Bring a table of features into the order of the spots."""
    if not isinstance(values, pd.DataFrame) or values.index.equals(adata.obs_names):
        return values
    if values.index.equals(pd.RangeIndex(len(values))):
        return values
    place = values.index.get_indexer(adata.obs_names) if values.index.is_unique else np.array([-1])
    if (place < 0).any() or len(values) != adata.n_obs:
        msg = f"features {name!r} are a table whose index is not adata.obs_names; reindex it, or pass an array"
        raise InputValueError(msg)
    return values.iloc[place]


def _names(names: Any) -> str:
    listed = [repr(str(name)) for name in names]
    return ", ".join(listed[:12]) + (", ..." if len(listed) > 12 else "") if listed else "nothing"
