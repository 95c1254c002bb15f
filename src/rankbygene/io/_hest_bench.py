"""The published folder of HEST-Bench: folds, genes, counts and patches of each task."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd

from rankbygene._reading import reading
from rankbygene.errors import InputKeyError, InputValueError, Problems
from rankbygene.io._hdf5 import check_stored, open_h5
from rankbygene.io._hest import read_json_object, read_table

if TYPE_CHECKING:
    import anndata as ad
    from numpy.typing import NDArray

__all__ = ["BenchFold", "BenchSample", "BenchTask", "patch_blocks", "read_bench"]

DATASET = "MahmoodLab/hest-bench"
GENES = "var_50genes.json"
PATCH_PX = 224
_COLUMNS = ("sample_id", "patches_path", "expr_path")
_SPLIT_FILE = re.compile(r"(train|test)_(\d+)\.csv")


@dataclass(frozen=True)
class BenchFold:
    """Names of the samples that a fold is fitted on and tested on."""

    train: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class BenchSample:
    """One slide: where its patches lie and what was measured at them.

    Attributes
    ----------
    patches
        HDF5 file of the patches.
    n_patches
        How many it holds.
    rows
        Which of them have a spot, ``[n]`` ascending.
    targets
        ``log1p`` of the counts at those, float64 ``[n, n_genes]``.
    places
        Where they lie, ``[n, 2]`` in any unit; by ``obsm["spatial"]``, else their order in the file.
    """

    patches: Path
    n_patches: int
    rows: NDArray[np.intp]
    targets: NDArray[np.float64]
    places: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BenchTask:
    """One task: its genes, its folds and the samples in them, by name."""

    name: str
    genes: tuple[str, ...]
    folds: tuple[BenchFold, ...]
    samples: dict[str, BenchSample]


def read_bench(
    root: Path, names: Sequence[str], *, drop_unmatched: bool = True
) -> dict[str, BenchTask]:
    """Read everything but the pixels of the named tasks.

    Parameters
    ----------
    root
        Folder that holds one folder per task.
    names
        The tasks.
    drop_unmatched
        Leave out patches whose barcode the table lacks; otherwise they are an error.

    Raises
    ------
    InputValueError, InputKeyError
        Parts are missing, damaged or contradict each other; all that is found is told at once.
    """
    missing = [name for name in names if not (root / name).is_dir()]
    if missing:
        there = (
            sorted(item.name for item in root.iterdir() if item.is_dir()) if root.is_dir() else []
        )
        msg = (
            f"{root} has no folder for the tasks {', '.join(missing)} (its folders: "
            f"{', '.join(there) or 'none'}); {_download(root, missing[0])}, or name the tasks that "
            "are there"
        )
        raise InputValueError(msg)
    tasks, problems = {}, Problems(str(root))
    for name in names:
        with problems.collect():
            tasks[name] = _read_task(root / name, drop_unmatched)
    problems.raise_if_any()
    return tasks


def patch_blocks(
    sample: BenchSample, size: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.uint8]]]:
    """Read the used patches, ``size`` at a time, as rows and uint8 ``[n, 3, px, px]``."""
    with open_h5(sample.patches) as file:
        for start in range(0, sample.n_patches, size):
            begin, end = np.searchsorted(sample.rows, [start, start + size])
            if begin < end:
                block = file["img"][start : start + size][sample.rows[begin:end] - start]
                yield np.arange(begin, end), np.moveaxis(block, 3, 1)


def _read_task(folder: Path, drop_unmatched: bool) -> BenchTask:
    genes = _read_genes(folder / GENES)
    folds, files = _read_folds(folder)
    samples, problems = {}, Problems()
    for name, (patches, expression) in files.items():
        with problems.collect():
            samples[name] = _read_sample(
                folder / patches, folder / expression, genes, drop_unmatched
            )
    problems.raise_if_any()
    return BenchTask(folder.name, genes, folds, samples)


def _read_genes(path: Path) -> tuple[str, ...]:
    _check_there(path)
    genes = read_json_object(path).get("genes")
    named = isinstance(genes, list) and all(isinstance(gene, str) for gene in genes)
    if not named or not genes or len(set(genes)) < len(genes):
        msg = f"{path} must hold different gene names under 'genes'; {_again(path)}"
        raise InputValueError(msg)
    return tuple(genes)


def _read_folds(folder: Path) -> tuple[tuple[BenchFold, ...], dict[str, tuple[str, str]]]:
    """Read the folds, and the two files of every sample in them, relative to ``folder``."""
    splits = folder / "splits"
    matches = [_SPLIT_FILE.fullmatch(file.name) for file in splits.glob("*.csv")]
    found = {(match[1], int(match[2])) for match in matches if match}
    n_folds = len({number for _, number in found})
    wanted = {(kind, number) for kind in ("train", "test") for number in range(max(n_folds, 1))}
    if found != wanted:
        lacking = ", ".join(f"{kind}_{number}.csv" for kind, number in sorted(wanted - found))
        msg = f"{splits} is not complete: {lacking} missing; {_again(splits)}"
        raise InputValueError(msg)
    folds: list[BenchFold] = []
    files: dict[str, tuple[str, str]] = {}
    for number in range(n_folds):
        sides = []
        for kind in ("train", "test"):
            path = splits / f"{kind}_{number}.csv"
            rows = _read_split(path)
            sides.append(tuple(rows))
            for name, pair in rows.items():
                if files.setdefault(name, pair) != pair:
                    msg = f"{path} gives sample {name!r} other files than the splits before it"
                    raise InputValueError(msg)
        both = sorted(set(sides[0]) & set(sides[1]))
        if both:
            msg = f"{splits}: {', '.join(both)} in both train_{number}.csv and test_{number}.csv"
            raise InputValueError(msg)
        folds.append(BenchFold(*sides))
    return tuple(folds), files


def _read_split(path: Path) -> dict[str, tuple[str, str]]:
    """Give the files of the patches and of the expression per sample, in the order of the file."""
    with reading(path, "CSV"):
        table = pd.read_csv(path, dtype=str)
    lacking = [name for name in _COLUMNS if name not in table]
    if lacking:
        msg = f"{path} has no column {', '.join(lacking)}; it has {list(table)}"
        raise InputValueError(msg)
    rows = table[list(_COLUMNS)]
    if rows.empty or rows.isna().any(axis=None) or rows["sample_id"].duplicated().any():
        msg = f"{path} must name each sample once, with both of its files; {_again(path)}"
        raise InputValueError(msg)
    return {name: (patches, expression) for name, patches, expression in rows.to_numpy().tolist()}


def _read_sample(
    patches: Path, expression: Path, genes: Sequence[str], drop_unmatched: bool
) -> BenchSample:
    _check_there(patches)
    _check_there(expression)
    barcodes = _read_barcodes(patches)
    table = read_table(expression)
    columns = _gene_columns(table, genes, expression)
    spots = table.obs_names.get_indexer(pd.Index(barcodes))
    rows = np.flatnonzero(spots >= 0)
    if not len(rows) or (len(rows) < len(spots) and not drop_unmatched):
        lacking = [barcodes[i] for i in np.flatnonzero(spots < 0)[:3]]
        msg = (
            f"{len(spots) - len(rows):,} of {len(spots):,} patches of {patches} have no spot in "
            f"{expression} (first: {', '.join(lacking)}; its spots: "
            f"{', '.join(table.obs_names[:3])}); {_again(patches.parent)}"
        )
        if len(rows):
            msg += ", or leave them out with variant='corrected'"
        raise InputKeyError(msg)
    counts = _dense_counts(table, spots[rows], columns, expression)
    places = _places(table, spots[rows], rows)
    return BenchSample(patches, len(barcodes), rows, np.log1p(counts), places)


def _places(
    table: ad.AnnData, spots: NDArray[np.intp], rows: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Positions of spots; only a baseline's penalty is chosen by them."""
    in_order = np.column_stack([rows, np.zeros(len(rows))]).astype(np.float64)
    if "spatial" not in table.obsm:
        return in_order
    try:
        places = np.asarray(table.obsm["spatial"], np.float64)[spots]
    except (TypeError, ValueError):
        return in_order
    sound = places.ndim == 2 and places.shape[1] >= 2 and np.isfinite(places).all()
    return places[:, :2] if sound else in_order


def _read_barcodes(path: Path) -> list[str]:
    with open_h5(path) as file:
        lacking = [n for n in ("img", "barcode") if not isinstance(file.get(n), h5py.Dataset)]
        if lacking:
            msg = f"{path} has no {', '.join(lacking)}; it has {sorted(file)}. {_again(path)}"
            raise InputValueError(msg)
        for name in ("img", "barcode"):
            check_stored(file[name], path)
        images, stored = file["img"], file["barcode"][:].ravel().tolist()
        if images.dtype != np.uint8 or images.shape != (len(stored), PATCH_PX, PATCH_PX, 3):
            msg = (
                f"{path} holds patches {images.dtype} {images.shape}; the benchmark's are uint8 "
                f"{(len(stored), PATCH_PX, PATCH_PX, 3)}, one for each of its barcodes"
            )
            raise InputValueError(msg)
    # Stored as bytes, in one column.
    return [x.decode("utf-8", "replace") if isinstance(x, bytes) else str(x) for x in stored]


def _gene_columns(table: ad.AnnData, genes: Sequence[str], path: Path) -> NDArray[np.intp]:
    names = table.var_names
    absent = [gene for gene in genes if gene not in names]
    if absent:
        msg = (
            f"{path} lacks {len(absent)} of the {len(genes)} genes of the task (first: "
            f"{', '.join(absent[:5])}); {_again(path)}"
        )
        raise InputKeyError(msg)
    repeated = names[names.duplicated() & names.isin(genes)]
    if len(repeated):
        msg = f"{path} has genes of the task more than once (first: {', '.join(repeated[:5])})"
        raise InputValueError(msg)
    found: NDArray[np.intp] = names.get_indexer_for(genes)
    return found


def _dense_counts(
    table: ad.AnnData, spots: NDArray[np.intp], columns: NDArray[np.intp], path: Path
) -> NDArray[np.float64]:
    if table.X is None:
        msg = f"{path} has no X; {_again(path)}"
        raise InputValueError(msg)
    chosen = table.X[:, columns][spots]
    counts = np.asarray(chosen.toarray() if hasattr(chosen, "toarray") else chosen, np.float64)
    # A NaN is unequal to its rounded self.
    if (counts < 0).any() or (counts != np.rint(counts)).any() or np.isinf(counts).any():
        msg = f"{path} does not hold counts in X but other numbers; {_again(path)}"
        raise InputValueError(msg)
    return counts


def _check_there(path: Path) -> None:
    if not path.is_file():
        msg = f"{path} is missing; {_again(path)}"
        raise InputValueError(msg)


def _again(path: Path) -> str:
    return f"download {path.name} again from https://huggingface.co/datasets/{DATASET}"


def _download(root: Path, task: str) -> str:
    return (
        "fetch them with `hf download --repo-type dataset "
        f"{DATASET} --include '{task}/*' --local-dir {root}`"
    )
