"""Scores on HEST-Bench: per gene, per task, on average, and as a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rankbygene._arguments import checked, checked_fields
from rankbygene.io import atomic_file

AVERAGE = "average"


@checked_fields
@dataclass(frozen=True, eq=False)
class HestBench:
    """Scores of an encoder on HEST-Bench, and of the baselines beside it.

    Attributes
    ----------
    summary
        One row per task and a last one, ``average``. Columns ``(method, "mean")`` and
        ``(method, "std")``: mean and standard deviation over folds (divided by their number) of
        the mean Pearson over genes. Methods are ``encoder`` and the baselines.
    per_gene
        Long table with ``task``, ``fold``, ``method``, ``gene``, ``pearson``, ``mse``, ``mae``.
        Errors are on the ``log1p`` scale; those of ``encoder`` are large by construction, since
        the benchmark's regression has no intercept.
    provenance
        What was run: encoder and hash of its weights, variant, precision, samples and how many of
        their patches were used, versions. ``complete`` tells whether the average is over the nine
        tasks of the benchmark and no other.
    """

    summary: pd.DataFrame
    per_gene: pd.DataFrame
    provenance: dict[str, Any]

    @checked
    def to_json(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write all of it as one JSON file, completely or not at all.

        Parameters
        ----------
        path
            The file.
        overwrite
            Replace a file of that name.

        Raises
        ------
        OutputExistsError
            The file exists and ``overwrite`` is False.
        """
        per_gene = self.per_gene.to_json(orient="split", index=False, double_precision=15)
        record = {
            "provenance": self.provenance,
            "tasks": {str(task): _json_row(row) for task, row in self.summary.iterrows()},
            "per_gene": json.loads(per_gene),
        }
        record[AVERAGE] = record["tasks"].pop(AVERAGE)
        with atomic_file(Path(path), overwrite=overwrite) as file:
            file.write_text(json.dumps(record, indent=1, allow_nan=False), encoding="utf-8")


def summarise_bench(per_gene: pd.DataFrame, *, skipna: bool) -> pd.DataFrame:
    """Mean over genes, then over folds, then over tasks.

    Only genes may be missing from a mean: without a whole fold or task it would be another one.
    """
    cells: dict[tuple[str, str], dict[str, float]] = {}
    groups: Any = per_gene.groupby(["method", "task"], sort=False)
    for (method, task), scores in groups:
        folds = np.array(
            [fold["pearson"].mean(skipna=skipna) for _, fold in scores.groupby("fold")]
        )
        cells.setdefault((method, "mean"), {})[task] = float(folds.mean())
        cells.setdefault((method, "std"), {})[task] = float(folds.std())
    summary = pd.DataFrame(cells).rename_axis(index="task", columns=["method", "pearson"])
    summary.loc[AVERAGE] = summary.mean(skipna=False).where(
        summary.columns.get_level_values(1) == "mean"
    )
    return summary


def _json_row(row: Any) -> dict[str, dict[str, float | None]]:
    """Nest a row of the summary by method; what is undefined becomes null."""
    nested: dict[str, dict[str, float | None]] = {}
    for (method, name), value in row.items():
        nested.setdefault(method, {})[name] = None if np.isnan(value) else float(value)
    return nested
