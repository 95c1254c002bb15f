from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, Identity

FOUR = np.array([[40.0, 30.0], [80.0, 30.0], [40.0, 60.0], [81.0, 62.5]])


def affine(matrix: Any) -> Affine:
    return Affine(np.asarray(matrix, dtype=float), input_axes=("x", "y"), output_axes=("x", "y"))


def scale(factor: float) -> Affine:
    return affine(np.diag([factor, factor, 1.0]))


def picture(height: int = 120, width: int = 160, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)


def make_image(pixels: np.ndarray, systems: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
    kwargs.setdefault("c_coords", ["r", "g", "b"])
    systems = {"global": Identity(), "um": scale(0.5)} if systems is None else systems
    return Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations=systems, **kwargs)


def make_circles(
    centers: np.ndarray, ids: Sequence[Any] | None = None, systems: Any = None, radius: Any = 5.0
) -> Any:
    index = pd.Index(np.arange(len(centers)) if ids is None else ids)
    systems = {"global": Identity()} if systems is None else systems
    return ShapesModel.parse(
        np.asarray(centers, dtype=float),
        geometry=0,
        radius=radius,
        index=index,
        transformations=systems,
    )


def make_table(regions: Mapping[str, Sequence[Any]], n_genes: int = 5, seed: int = 0) -> ad.AnnData:
    """Build counts for the instances of each region, rows in the order given."""
    region = [name for name, ids in regions.items() for _ in ids]
    ids = [i for instances in regions.values() for i in instances]
    counts = np.random.default_rng(seed).poisson(3, (len(ids), n_genes)) + 1
    obs = pd.DataFrame(
        {"region": pd.Categorical(region), "id": ids},
        index=[f"{r}_{i}" for r, i in zip(region, ids, strict=True)],
    )
    var = pd.DataFrame(index=[f"gene{j}" for j in range(n_genes)])
    table = ad.AnnData(csr_matrix(counts.astype(np.float32)), obs=obs, var=var)
    return TableModel.parse(table, region=list(regions), region_key="region", instance_key="id")


def make_slide(
    centers: Any = None, *, image: Any = None, name: str = "spots", **shapes: Any
) -> SpatialData:
    """Build a slide of four spots on an image of 160 x 120 px, half a micrometre each."""
    circles = make_circles(FOUR if centers is None else centers, **shapes)
    return SpatialData(
        images={"he": make_image(picture()) if image is None else image},
        shapes={name: circles},
        tables={"table": make_table({name: list(circles.index)})},
    )


@pytest.fixture
def build() -> SimpleNamespace:
    """The builders of tiny slides."""
    return SimpleNamespace(
        affine=affine,
        circles=make_circles,
        image=make_image,
        picture=picture,
        scale=scale,
        slide=make_slide,
        table=make_table,
    )
