"""Rows of a matrix come out the same from wherever it is kept."""

from __future__ import annotations

from typing import Any

import anndata as ad
import dask.array as da
import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from rankbygene.data.counts import _matrix
from rankbygene.data.counts._matrix import matrix_blocks, read_matrix

VALUES = np.random.default_rng(0).poisson(1, (50, 7))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same matrix, kept in many ways."""
    folder = tmp_path_factory.mktemp("kept")

    def backed(name: str, matrix: Any) -> Any:
        path = folder / f"{name}.h5ad"
        ad.AnnData(matrix).write_h5ad(path)
        return ad.read_h5ad(path, backed="r").X

    csr = sparse.csr_matrix(VALUES)
    stored = zarr.open_group(folder / "z", mode="w")
    ad.io.write_elem(stored, "csr", csr)
    stored.create_array("dense", data=VALUES)
    file = h5py.File(folder / "plain.h5", "w")
    file["dense"] = VALUES
    return {
        "numpy": VALUES,
        "matrix": np.matrix(VALUES),
        "csr": csr,
        "csr_array": sparse.csr_array(VALUES),
        "csc": sparse.csc_matrix(VALUES),
        "coo": sparse.coo_array(VALUES),
        "backed csr": backed("csr", csr),
        "backed csc": backed("csc", sparse.csc_matrix(VALUES)),
        "backed dense": backed("dense", VALUES.astype(np.float32)),
        "h5py": file["dense"],
        "zarr": stored["dense"],
        "zarr csr": ad.io.sparse_dataset(stored["csr"]),
        "dask dense": da.from_array(VALUES, chunks=(13, 4)),
        "dask csr": da.from_array(VALUES, chunks=(13, 7)).map_blocks(sparse.csr_matrix),
        "dask csr_array": da.from_array(VALUES, chunks=(13, 7)).map_blocks(sparse.csr_array),
        "lazy csr": ad.experimental.read_elem_lazy(stored["csr"]),
    }


def dense(block: Any) -> Any:
    return block.toarray() if sparse.issparse(block) else block


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.integers(0, 49), max_size=60), at_once=st.integers(1, 60))
def test_every_keeper_gives_the_same_rows(kept: Any, rows: list[int], at_once: int) -> None:
    wanted = np.array(rows, np.intp)
    for name, matrix in kept.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_matrix, "_ROWS_AT_ONCE", at_once)
            blocks = [dense(block) for block in matrix_blocks(matrix, wanted)]
        found = np.concatenate([np.zeros((0, 7)), *blocks])
        np.testing.assert_array_equal(found, VALUES[wanted], err_msg=name)
        np.testing.assert_array_equal(dense(read_matrix(matrix, wanted)), VALUES[wanted], name)


def test_blocks_are_small_and_of_the_kind_that_is_kept(kept: Any) -> None:
    for name, matrix in kept.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_matrix, "_VALUES_AT_ONCE", 70)
            blocks = list(matrix_blocks(matrix))
        is_sparse = any(word in name for word in ("csr", "csc", "coo"))
        assert all(sparse.issparse(block) == is_sparse for block in blocks), name
        assert len(blocks) == (1 if is_sparse else 5), name
        np.testing.assert_array_equal(np.concatenate([dense(block) for block in blocks]), VALUES)
