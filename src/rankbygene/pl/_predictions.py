"""Reading what pictures show out of an AnnData: slides, positions, genes, feature sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from rankbygene.errors import InputKeyError, InputValueError

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import ArrayLike, NDArray


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


def dense(values: Any) -> NDArray[np.float64]:
    """Give a matrix as dense float64."""
    return np.asarray(values.toarray() if sparse.issparse(values) else values, dtype=np.float64)


def column(adata: AnnData, key: str) -> NDArray[np.str_]:
    """Read a column of ``obs`` as text.

    Raises
    ------
    InputKeyError
        There is no such column.
    """
    if key not in adata.obs:
        msg = f"adata.obs has no {key!r}; it has {_names(adata.obs)}"
        raise InputKeyError(msg)
    return np.asarray(adata.obs[key].astype(str), dtype=str)


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
    if slide is not None and str(slide) not in names:
        msg = f"adata.obs[{slide_key!r}] has no {slide!r}; it has {_names(names)}"
        raise InputKeyError(msg)
    return np.flatnonzero(slides == (names[0] if slide is None else str(slide)))


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
        An array has not one row per spot, or there is no set.
    """
    named = {features: features} if isinstance(features, str) else dict(features)
    if not named:
        msg = "`features` is empty; pass {name: key of obsm, or array}"
        raise InputValueError(msg)
    found = {}
    for name, source in named.items():
        if isinstance(source, str) and source not in adata.obsm:
            msg = f"adata.obsm has no {source!r}; it has {_names(adata.obsm)}"
            raise InputKeyError(msg)
        values = dense(adata.obsm[source] if isinstance(source, str) else source)
        if values.ndim != 2 or len(values) != adata.n_obs:
            msg = (
                f"features {name!r} have the shape {values.shape}; [n_obs, n_features] with "
                f"n_obs={adata.n_obs} is needed"
            )
            raise InputValueError(msg)
        found[name] = values[rows]
    return found


def _names(names: Any) -> str:
    listed = [repr(str(name)) for name in names]
    return ", ".join(listed[:12]) + (", ..." if len(listed) > 12 else "") if listed else "nothing"
