"""Scores of a cross-validation: tables, intervals, exports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rankbygene._arguments import checked, checked_fields
from rankbygene.errors import InputKeyError, InputValueError
from rankbygene.io import atomic_directory
from rankbygene.io._checksums import file_checksum, record_checksum
from rankbygene.metrics import bootstrap_mean, paired_bootstrap

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["CEILING", "CrossValidation"]

CEILING = "noise ceiling"
# Of a saved folder. Before it had one, names of methods and checksums were missing.
FOLDER_FORMAT = 2
# Of these the best genes are those with least.
_ERRORS = ("mse", "mae", "nrmse")
_KEYS = ("method", "seed", "fold", "slide", "patient", "gene")


@checked_fields
@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Held-out scores of methods, with baselines and references beside them.

    Attributes
    ----------
    per_gene
        One row per method, seed, fold, slide and gene, with every score. A gene that is constant on
        a slide has no correlation there (NaN).
    predictions
        AnnData of all held-out spots: ``X`` is measured expression, ``layers[method]`` what each
        method predicted with the first seed, both on the scale of ``provenance["normalization"]``;
        NaN for genes outside the panel of a spot's fold. ``.obs`` has ``slide``, ``patient`` and
        ``fold``, ``.obsm["spatial"]`` the centres in micrometres.
    runs
        One row per method, seed and fold: ``seconds`` and ``peak_memory_mb`` (training and
        prediction; features of an untrained encoder are computed once and counted where they are
        first needed), numbers of spots, and a ``note`` where the method has one.
    methods, baselines, references
        Names, in the order they were given. The first method is compared with all others.
    provenance
        Data, folds, panel, scale, encoder, seeds, settings and versions, in plain values.
    """

    per_gene: pd.DataFrame
    predictions: AnnData
    runs: pd.DataFrame
    methods: tuple[str, ...]
    baselines: tuple[str, ...]
    references: tuple[str, ...]
    provenance: dict[str, Any]

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row per method, baseline and reference.

        Every score is the mean over seeds, then over slides (of a patient, then over patients),
        then over genes. ``pearson_low`` and ``pearson_high`` bound the 95 % interval over slides
        (patients) and genes; ``pearson_sd_over_seeds`` is the standard deviation of the mean.
        ``difference`` is the first method's Pearson minus the row's, with a paired interval and
        the p-value of no difference. ``share_of_ceiling`` is Pearson over that of the noise
        ceiling. ``seconds`` (mean) and ``peak_memory_mb`` (largest) are per fold.
        """
        names = [*self.methods, *self.baselines, *self.references]
        table = pd.DataFrame({name: self._row(name) for name in names}).T
        table.index.name = "method"
        return table.astype({"n_genes": int})

    @checked
    def compare(self, a: str, b: str, metric: str = "pearson") -> pd.Series[float]:
        """Compare two methods on the same slides and genes.

        Returns
        -------
        ``difference`` (``a`` minus ``b``), ``low``, ``high`` of its 95 % interval, ``p_value`` of
        no difference; see :func:`rankbygene.metrics.paired_bootstrap`.
        """
        first, second = self._matrix(a, metric).align(self._matrix(b, metric), join="inner")
        interval = paired_bootstrap(first.to_numpy(), second.to_numpy())
        index = ["difference", "low", "high", "p_value"]
        return pd.Series([*interval], index=index, name=f"{a} - {b}")

    @checked
    def top_k(
        self, k: int = 50, *, oracle: bool = False, metric: str = "pearson"
    ) -> pd.Series[float]:
        """Mean score over the ``k`` best genes, the list of each fold fixed on the other folds.

        Parameters
        ----------
        k
            Number of genes.
        oracle
            Choose the genes on the very fold that is scored. This is what many papers report; it
            is optimistic, and on pure noise well above zero.
        metric
            Column of ``per_gene``.

        Returns
        -------
        One score per method and baseline.

        Raises
        ------
        InputValueError
            There is only one fold, so that there is no other one to choose on.
        """
        folds = list(self.per_gene["fold"].unique())
        if len(folds) < 2 and not oracle:
            msg = "the best genes of a fold are chosen on the other folds and there is only one"
            raise InputValueError(msg)
        self._check_metric(metric)
        n_genes = self.per_gene["gene"].nunique()
        if not 1 <= k <= n_genes:
            msg = f"k is {k}; the result has {n_genes} genes to choose from"
            raise InputValueError(msg)
        scores = {}
        for name in [*self.methods, *self.baselines]:
            own = self.per_gene[self.per_gene["method"] == name]
            by_fold = pd.DataFrame(
                {fold: _by_unit(part, metric).mean() for fold, part in own.groupby("fold")}
            )
            values = []
            for fold in folds:
                seen = by_fold[[fold]] if oracle else by_fold.drop(columns=fold)
                mean = seen.mean(axis=1).dropna()
                best = (mean.nsmallest(k) if metric in _ERRORS else mean.nlargest(k)).index
                values.append(by_fold.loc[best, fold].mean())
            scores[name] = float(np.nanmean(values)) if np.isfinite(values).any() else np.nan
        return pd.Series(scores, name=f"{metric}_top{k}" + ("_oracle" if oracle else ""))

    def to_markdown(self) -> str:
        """Give the summary and how it came about as Markdown."""
        shown = _shown(self.summary)
        header = "| " + " | ".join(["method", *shown.columns]) + " |"
        rule = "|---" + "|---:" * len(shown.columns) + "|"
        rows = ["| " + " | ".join([name, *values]) + " |" for name, *values in shown.itertuples()]
        return "\n".join([header, rule, *rows, "", _sentence(self.provenance)]) + "\n"

    def to_json(self) -> str:
        """Give summary, runs and provenance as JSON; numbers that do not exist are null."""
        return json.dumps(self._record(), indent=1, allow_nan=False) + "\n"

    @checked
    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write everything into a folder, completely or not at all.

        ``summary.csv``, ``per_gene.csv``, ``runs.csv``, ``summary.md``, ``result.json`` and
        ``predictions.h5ad``; :func:`load_result` reads them again.

        Raises
        ------
        OutputExistsError
            ``path`` exists and ``overwrite`` is False.
        """
        with atomic_directory(Path(path), overwrite=overwrite) as folder:
            self.summary.to_csv(folder / "summary.csv")
            self.per_gene.to_csv(folder / "per_gene.csv", index=False)
            self.runs.to_csv(folder / "runs.csv", index=False)
            (folder / "summary.md").write_text(self.to_markdown(), encoding="utf-8")
            self.predictions.write_h5ad(folder / "predictions.h5ad")
            files = {file.name: file_checksum(file) for file in sorted(folder.iterdir())}
            record = {"format": FOLDER_FORMAT, **self._record(), "sha256": files}
            record["checksum"] = record_checksum(record)
            text = json.dumps(record, indent=1, allow_nan=False) + "\n"
            (folder / "result.json").write_text(text, encoding="utf-8")

    def __repr__(self) -> str:
        return f"{_shown(self.summary).to_string()}\n{_sentence(self.provenance)}"

    def _record(self) -> dict[str, Any]:
        """What JSON says of the result, every number with all of its digits."""
        record = {
            "methods": self.methods,
            "baselines": self.baselines,
            "references": self.references,
            "summary": _plain(self.summary.to_dict(orient="index")),
            "runs": _plain(self.runs.to_dict(orient="records")),
            "provenance": _plain(self.provenance),
        }
        plain: dict[str, Any] = json.loads(json.dumps(record, default=str))
        return plain

    @property
    def _metrics(self) -> list[str]:
        return [str(column) for column in self.per_gene if column not in _KEYS]

    def _matrix(self, method: str, metric: str) -> pd.DataFrame:
        """Scores ``[n_slides or n_patients, n_genes]``, the mean over seeds."""
        self._check_metric(metric)
        own = self.per_gene[self.per_gene["method"] == method]
        if own.empty:
            msg = (
                f"there is no method {method!r}; there are {list(self.per_gene['method'].unique())}"
            )
            raise InputKeyError(msg)
        return _by_unit(own, metric)

    def _check_metric(self, metric: str) -> None:
        if metric not in self._metrics:
            msg = f"there is no score {metric!r}; the scores are {', '.join(self._metrics)}"
            raise InputKeyError(msg)

    def _row(self, name: str) -> dict[str, float]:
        scores = self._matrix(name, "pearson")
        mean = bootstrap_mean(scores.to_numpy())
        row: dict[str, float] = {
            "pearson": mean.estimate,
            "pearson_low": mean.low,
            "pearson_high": mean.high,
            "pearson_sd_over_seeds": self._sd_over_seeds(name),
        }
        if CEILING in self.references:
            row["share_of_ceiling"] = mean.estimate / self._mean(CEILING, "pearson")
        if name != self.methods[0] and name != CEILING:
            compared = self.compare(self.methods[0], name)
            row |= {f"difference{suffix}": compared[key] for suffix, key in _DIFFERENCE}
            row["p_value"] = compared["p_value"]
        else:
            row |= dict.fromkeys([*(f"difference{s}" for s, _ in _DIFFERENCE), "p_value"], np.nan)
        others = [metric for metric in self._metrics if metric != "pearson"]
        row |= {metric: self._mean(name, metric) for metric in others}
        row["n_genes"] = int(scores.notna().any().sum())
        runs = self.runs[self.runs["method"] == name]
        row["seconds"] = runs["seconds"].mean()
        row["peak_memory_mb"] = runs["peak_memory_mb"].max()
        return row

    def _mean(self, name: str, metric: str) -> float:
        return float(self._matrix(name, metric).mean().mean())

    def _sd_over_seeds(self, name: str) -> float:
        own = self.per_gene[self.per_gene["method"] == name]
        means = [_by_unit(part, "pearson").mean().mean() for _, part in own.groupby("seed")]
        return float(np.std(means, ddof=1)) if len(means) > 1 else np.nan


def _by_unit(own: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Scores of one method ``[n_slides or n_patients, n_genes]``, the mean over seeds."""
    # Blocks of a slide first, then slides of a patient. A slide whose patient is not known is a
    # patient of its own; it must not fall out of the groups.
    by_slide = (
        own.groupby(["slide", "fold", "gene"])[metric].mean().groupby(["slide", "gene"]).mean()
    ).unstack("gene")
    patient = own.drop_duplicates("slide").set_index("slide")["patient"]
    units = [
        f"slide {slide}" if pd.isna(patient[slide]) else f"patient {patient[slide]}"
        for slide in by_slide.index
    ]
    if len(set(units)) > 1:
        return by_slide.groupby(pd.Index(units, name="unit")).mean()
    return by_slide


def _plain(value: Any) -> Any:
    """Give numbers that do not exist as None, which JSON has, at any depth."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


_DIFFERENCE = (("", "difference"), ("_low", "low"), ("_high", "high"))


def _shown(summary: pd.DataFrame) -> pd.DataFrame:
    """Format the columns that people compare."""
    shown = pd.DataFrame(index=summary.index)
    shown["Pearson"] = _with_interval(summary, "pearson")
    if "share_of_ceiling" in summary:
        shown["of ceiling"] = [_number(v, "{:.0%}") for v in summary["share_of_ceiling"]]
    shown["first minus this"] = _with_interval(summary, "difference", "{:+.3f}")
    shown["p"] = [_number(v, "{:.2g}") for v in summary["p_value"]]
    for metric in ("spearman", "mse", "concordance", "variance_ratio"):
        if metric in summary:
            shown[metric] = [_number(value, "{:.3f}") for value in summary[metric]]
    shown["s per fold"] = [_number(value, "{:.0f}") for value in summary["seconds"]]
    shown["MB"] = [_number(value, "{:.0f}") for value in summary["peak_memory_mb"]]
    return shown


def _with_interval(summary: pd.DataFrame, name: str, form: str = "{:.3f}") -> list[str]:
    columns = summary[[name, f"{name}_low", f"{name}_high"]].to_numpy(float)
    return [
        _number(value, form)
        + (f" [{form.format(low)}, {form.format(high)}]" if np.isfinite([low, high]).all() else "")
        for value, low, high in columns
    ]


def _number(value: float, form: str) -> str:
    return form.format(value) if np.isfinite(value) else "-"


def _sentence(provenance: dict[str, Any]) -> str:
    """Say under the table how it came about."""
    folds: Sequence[dict[str, Any]] = provenance["folds"]
    spots = sum(sum(fold["test"].values()) for fold in folds)
    leaks = provenance["allow_leaks"]
    text = (
        f"{len(folds)} folds by {provenance['groups']}, {spots} held-out spots, seeds "
        f"{', '.join(map(str, provenance['seeds']))}, panel: {provenance['panel']}, encoder "
        f"{provenance['backbone']['name']}{'' if provenance['backbone']['pretrained'] else ' (untrained)'}, "
        f"tiles of {provenance['tile']['um']:g} um at {provenance['tile']['px']} px. Scores per gene "
        "within each slide, mean over slides, patients and genes; 95 % intervals over slides "
        "(patients, where there are several) and genes."
    )
    return text + (f" Leaks that were allowed: {', '.join(leaks)}." if leaks else "")
