from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from rankbygene.data import ArrayBag, Bag, BagSetup, PooledBag, TableBag, read_tiles
from rankbygene.data.bags._bags import bags_of, stream
from rankbygene.errors import InputKeyError, InputTypeError, InputValueError


@pytest.fixture
def slide(make_slides: Any) -> Any:
    sdata = make_slides(1)[0]
    table = sdata["table"]
    rng = np.random.default_rng(0)
    table.obsm["X_rankbygene"] = rng.normal(size=(table.n_obs, 5)).astype("f4")
    layer = np.full(table.shape, np.nan, np.float32)
    layer[:, ::3] = rng.normal(size=layer[:, ::3].shape)
    table.layers["rankbygene"] = layer
    table.var["rankbygene_panel"] = np.arange(table.n_vars) % 3 == 0
    return sdata


ROWS = np.array([7, 0, 3])


@pytest.mark.parametrize("kind", ["array", "frame", "sparse"])
def test_features_of_a_table_are_read_by_row(slide: Any, kind: str) -> None:
    table = slide["table"]
    values = table.obsm["X_rankbygene"].copy()
    if kind == "frame":
        table.obsm["X_rankbygene"] = pd.DataFrame(values, index=table.obs_names)
    if kind == "sparse":
        table.obsm["X_rankbygene"] = sparse.csr_matrix(values)
    bag = TableBag("a", slide)
    assert isinstance(bag, Bag)
    assert (bag.n_tiles, bag.n_features) == values.shape
    np.testing.assert_array_equal(bag.read(), values)
    np.testing.assert_array_equal(bag.read(ROWS), values[ROWS])


def test_a_layer_gives_the_predicted_genes_by_name(slide: Any) -> None:
    bag = TableBag("a", slide, BagSetup(layer="rankbygene"))
    layer = slide["table"].layers["rankbygene"]
    np.testing.assert_array_equal(read_tiles(bag, ROWS), layer[ROWS][:, ::3])
    genes = ("gene_9", "gene_0")
    other = TableBag("a", slide, BagSetup(layer="rankbygene", genes=genes))
    np.testing.assert_array_equal(other.read(), layer[:, [9, 0]])
    counts = TableBag("a", slide, BagSetup(layer="X"))
    np.testing.assert_array_equal(counts.read(ROWS), slide["table"].X[ROWS].toarray())


def test_every_region_of_a_table_is_a_slide(slide: Any) -> None:
    table = slide["table"]
    slide.shapes["other"] = slide.shapes["slide_0_spots"]
    table.obs["region"] = pd.Categorical(
        np.where(np.arange(table.n_obs) % 2, "other", "slide_0_spots")
    )
    table.uns["spatialdata_attrs"]["region"] = ["slide_0_spots", "other"]
    first, second = bags_of(slide, name="a")
    assert (first.name, second.name) == ("a-slide_0_spots", "a-other")
    np.testing.assert_array_equal(second.read(), table.obsm["X_rankbygene"][1::2])
    with pytest.raises(InputValueError, match="several regions"):
        TableBag("a", slide)


@pytest.mark.parametrize(
    ("setup", "match"),
    [
        (BagSetup(table_key="tiles"), "no table 'tiles'; the tables are"),
        (BagSetup(feature_key="X_uni"), "no .obsm\\['X_uni'\\].*X_rankbygene"),
        (BagSetup(layer="nh2st"), "no layer 'nh2st'"),
        (BagSetup(layer="rankbygene", genes=("gene_0", "ERBB2")), "1 genes are not.*ERBB2"),
    ],
)
def test_what_a_table_lacks_is_named(slide: Any, setup: BagSetup, match: str) -> None:
    with pytest.raises(InputKeyError, match=match):
        TableBag("a", slide, setup)


def test_something_else_is_no_slide() -> None:
    with pytest.raises(InputTypeError, match="needs a SpatialData object, found str"):
        bags_of("slide.h5")  # type: ignore[arg-type]


def test_pooled_bags_read_like_their_concatenation() -> None:
    rng = np.random.default_rng(0)
    parts = [
        ArrayBag(str(i), rng.normal(size=(n, 4)).astype("f4")) for i, n in enumerate((3, 1, 5))
    ]
    pooled = PooledBag("patient", parts)
    whole = np.concatenate([part.features for part in parts])
    assert isinstance(pooled, Bag)
    np.testing.assert_array_equal(pooled.read(), whole)
    rows = np.array([8, 0, 3, 2])
    np.testing.assert_array_equal(pooled.read(rows), whole[rows])
    np.testing.assert_array_equal(np.concatenate(list(stream(pooled, 4))), whole)


class Broken:
    name, n_tiles, n_features = "broken", 3, 4

    def read(self, rows: Any = None) -> Any:
        raise OSError("truncated file")


class Lying(Broken):
    def read(self, rows: Any = None) -> Any:
        return np.zeros((3, 5), np.float32)


@pytest.mark.parametrize(
    ("bag", "match"),
    [
        (Broken(), "slide 'broken' cannot be read: truncated file"),
        (Lying(), "slide 'broken' has features of shape \\(3, 5\\) where \\(3, 4\\)"),
        (ArrayBag("a", np.zeros((0, 4), np.float32)), "slide 'a' has no tiles"),
        (ArrayBag("a", np.array([[0, 1], [np.nan, 1]], np.float32)), "'a' has 1 of 2 tiles.*NaN"),
    ],
)
def test_a_bad_bag_is_named(bag: Any, match: str) -> None:
    with pytest.raises(InputValueError, match=match):
        read_tiles(bag)


def test_arrays_of_other_shapes_are_no_bags() -> None:
    with pytest.raises(InputValueError, match="tiles, features"):
        ArrayBag("a", np.zeros(3, np.float32))
    with pytest.raises(InputValueError, match="one position per tile"):
        ArrayBag("a", np.zeros((3, 2), np.float32), np.zeros((2, 2)))
