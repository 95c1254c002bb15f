"""Reading the rows of a matrix, whatever keeps it: memory, an h5ad or zarr file, or a dask graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Block", "matrix_blocks", "read_matrix", "row_blocks"]

Block: TypeAlias = "sparse.csr_array | NDArray[Any]"

_ROWS_AT_ONCE = 4096
# Values of a dense matrix that are held at once.
_VALUES_AT_ONCE = 1 << 22


def matrix_blocks(matrix: Any, rows: NDArray[np.intp] | None = None) -> Iterator[Block]:
    """Read a matrix some rows at a time.

    Parameters
    ----------
    matrix
        NumPy or SciPy sparse, a dataset of h5py or zarr, a sparse dataset of anndata (``backed="r"``), or
        a dask array of dense or sparse blocks. Compressed columns are turned into rows first, in memory.
    rows
        Rows to read, in any order; all if None.

    Yields
    ------
    The rows, sparse where the matrix is; they may share memory with it.
    """
    matrix = _by_rows(matrix)
    n_rows, n_columns = matrix.shape
    wanted = np.arange(n_rows) if rows is None else np.asarray(rows)
    at_once = _ROWS_AT_ONCE
    if not _is_sparse(matrix):
        at_once = min(at_once, max(1, _VALUES_AT_ONCE // max(1, n_columns)))
    for block in row_blocks(len(wanted), at_once):
        yield _rows_in_memory(matrix, wanted[block])


def read_matrix(matrix: Any, rows: NDArray[np.intp] | None = None) -> Block:
    """Read a matrix, or some rows of it in any order, into memory."""
    matrix = _by_rows(matrix)
    return _rows_in_memory(matrix, np.arange(matrix.shape[0]) if rows is None else np.asarray(rows))


def row_blocks(n: int, at_once: int | None = None) -> Iterator[slice]:
    """Cut ``n`` rows into slices small enough to be made dense."""
    step = at_once or _ROWS_AT_ONCE
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _rows_in_memory(matrix: Any, rows: NDArray[np.intp]) -> Block:
    if not len(rows):
        part = matrix[0:0]
    elif (np.diff(rows) == 1).all():
        part = matrix[rows[0] : rows[-1] + 1]
    elif isinstance(matrix, np.ndarray) or sparse.issparse(matrix):
        part = matrix[rows]
    else:
        # Files are read in increasing order only, each row once.
        wanted, places = np.unique(rows, return_inverse=True)
        part = _computed(matrix[wanted])[places]
    part = _computed(part)
    return sparse.csr_array(part) if sparse.issparse(part) else np.asarray(part)


def _computed(part: Any) -> Any:
    return part.compute() if hasattr(part, "compute") else part


def _by_rows(matrix: Any) -> Any:
    """Turn compressed columns once: they cost a pass over all values for every block of rows."""
    if getattr(matrix, "format", None) not in ("csc", "coo", "dok", "lil", "dia", "bsr"):
        return matrix
    in_memory = matrix if sparse.issparse(matrix) else matrix.to_memory()
    return in_memory.tocsr()


def _is_sparse(matrix: Any) -> bool:
    """Whether rows are sparse: of SciPy, of anndata's files, or of the blocks of a dask array."""
    stored = getattr(matrix, "_meta", matrix)
    return sparse.issparse(stored) or hasattr(stored, "format")
