"""Slides joined to patients and their outcomes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd

from rankbygene._arguments import checked, checked_fields
from rankbygene._checks import check_instance
from rankbygene._names import read_patients, require_names
from rankbygene.data.bags._bags import Bag, BagSetup, PooledBag, TableBag, bags_of, read_tiles
from rankbygene.data.expression._panel import first_names
from rankbygene.errors import InputKeyError, InputTypeError, InputValueError, Problems

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from spatialdata import SpatialData

    Slides: TypeAlias = (
        SpatialData | Bag | Sequence[SpatialData | Bag] | Mapping[str, SpatialData | Bag]
    )

__all__ = ["Cohort", "OnError", "PatientUnit", "join_clinical", "resolve_bags", "sample_bags"]

logger = logging.getLogger("rankbygene")

OnError = Literal["raise", "warn"]
PatientUnit = Literal["patient", "slide"]

_SAMPLED_TILES = 2048


@checked_fields
@dataclass(frozen=True, eq=False)
class Cohort:
    """Slides with their patients and outcomes.

    Parameters
    ----------
    bags
        The slides by name.
    clinical
        One row per slide, in the order of ``bags``: ``patient`` and the outcome.
    unit
        ``"patient"``: all slides of a patient are one bag. ``"slide"``: each is a bag of its own.
    """

    bags: dict[str, Bag]
    clinical: pd.DataFrame
    unit: PatientUnit = "patient"

    @property
    def units(self) -> dict[str, Bag]:
        """What the model learns from: a bag per patient or per slide."""
        return pooled(self.bags, self.clinical["patient"]) if self.unit == "patient" else self.bags

    @property
    def outcomes(self) -> pd.DataFrame:
        """Patient and outcome of each unit, indexed by unit."""
        if self.unit == "slide":
            return self.clinical
        return self.clinical.drop_duplicates("patient").set_index("patient", drop=False)

    @checked
    def select(self, patients: Sequence[str]) -> Cohort:
        """Give the part of the cohort with these patients."""
        chosen = self.clinical[self.clinical["patient"].isin(list(patients))]
        return Cohort({name: self.bags[name] for name in chosen.index}, chosen, self.unit)


def pooled(bags: Mapping[str, Bag], patients: pd.Series[str]) -> dict[str, Bag]:
    """Pool the bags of each patient, in order of first appearance."""
    groups: dict[str, list[Bag]] = {}
    for name, bag in bags.items():
        groups.setdefault(str(patients[name]), []).append(bag)
    return {
        patient: group[0] if len(group) == 1 else PooledBag(patient, group)
        for patient, group in groups.items()
    }


@checked
def resolve_bags(
    slides: Slides,
    setups: BagSetup | Callable[[SpatialData], BagSetup] = BagSetup(),
    *,
    on_error: OnError = "raise",
) -> dict[str, Bag]:
    """Read several slides as bags and give each a name of its own.

    Parameters
    ----------
    slides
        SpatialData or bags: one, a list, or a dict ``{slide: object}``. In a list, SpatialData are
        named by their region and bags by their own name.
    setups
        Where features are found in SpatialData, for all objects or as a function of the object.
    on_error
        ``"raise"``: report all slides without features. ``"warn"``: name them and go on without.

    Returns
    -------
    ``{slide: bag}``.

    Raises
    ------
    InputTypeError, InputKeyError, InputValueError
        As for :class:`TableBag`, for all slides together; two slides of one name; no slide.
    """
    check_on_error(on_error)
    named = isinstance(slides, Mapping)
    if isinstance(slides, Mapping):
        names = require_names(list(slides), "names of slides")
        items = list(zip(names, slides.values(), strict=True))
    else:
        several = isinstance(slides, Sequence) and not isinstance(slides, str)
        items = [("", item) for item in (slides if several else [slides])]  # type: ignore[union-attr,list-item]
    problems, bags = Problems(), {}
    for name, item in items:
        with problems.collect():
            setup = (
                setups if isinstance(setups, BagSetup) or isinstance(item, Bag) else setups(item)
            )
            if not isinstance(item, Bag):
                check_instance(setup, "what setups gives for a slide", BagSetup)
            found = bags_of(item, setup, name=name or None)  # type: ignore[arg-type]
            for bag in found:
                key = name if named and len(found) == 1 else bag.name
                if key in bags:
                    msg = f"two slides are called {key!r}; pass a dict with names of your own"
                    raise InputValueError(msg)
                bags[key] = bag
    bags = _with_same_genes(bags, problems)
    report(problems, on_error, "left out")
    if not bags:
        msg = "no slide with features was given; pass at least one"
        raise InputValueError(msg)
    return bags


def _with_same_genes(bags: Mapping[str, Bag], problems: Problems) -> dict[str, Bag]:
    """Let layers of all tables give the genes of the first, in its order."""
    genes = next((bag.genes for bag in bags.values() if isinstance(bag, TableBag)), None)
    aligned: dict[str, Bag] = {}
    for name, bag in bags.items():
        with problems.collect():
            other = isinstance(bag, TableBag) and bag.genes != genes
            aligned[name] = (
                replace(bag, setup=replace(bag.setup, genes=genes)) if other else bag  # type: ignore[type-var, attr-defined]
            )
    return aligned


@checked(clinical=None)  # judged with what is needed of it
def join_clinical(
    bags: Mapping[str, Bag],
    clinical: pd.DataFrame,
    columns: Mapping[str, str],
    *,
    patient_key: str | None = "patient",
    slide_key: str | None = None,
    on_error: OnError = "raise",
) -> tuple[dict[str, Bag], pd.DataFrame]:
    """Find the row of each slide in a clinical table.

    Parameters
    ----------
    bags
        The slides by name.
    clinical
        One row per slide. Rows of other slides are not used.
    columns
        ``{name: column}`` of the outcome.
    patient_key
        Column that names the patient. None: every slide is a patient of its own.
    slide_key
        Column that names the slide; by default the index does.
    on_error
        What to do with slides without a row, or with a missing value in it.

    Returns
    -------
    The slides that have an outcome, and their rows, with columns ``patient`` and those named.

    Raises
    ------
    InputTypeError
        ``clinical`` is no DataFrame.
    InputKeyError
        A column does not exist.
    InputValueError
        A slide has several rows or, with ``on_error="raise"``, no complete one.
    """
    check_on_error(on_error)
    table = _by_slide(clinical, slide_key)
    wanted = {**({} if patient_key is None else {"patient": patient_key}), **columns}
    missing = [column for column in wanted.values() if column not in table]
    if missing:
        msg = f"the clinical table has no column {missing}; it has {list(table.columns)[:20]}"
        if patient_key in missing:
            msg += ". Pass patient_key=None where every slide is a patient of its own."
        raise InputKeyError(msg)
    # Taken by name and not reindexed: a gap would turn whole numbers into floats.
    found = table.loc[[name for name in bags if name in table.index]]
    rows = pd.DataFrame({name: found[column] for name, column in wanted.items()}, index=found.index)
    if patient_key is None:
        rows.insert(0, "patient", rows.index)
    else:
        rows["patient"] = read_patients(found[patient_key], f"patients in column {patient_key!r}")
    problems = Problems()
    with problems.collect():
        lost = [name for name in bags if name not in table.index]
        _refuse(lost, "have no row in the clinical table", "rows are named", list(table.index[:3]))
    with problems.collect():
        empty = rows.index[rows.isna().any(axis=1)]
        _refuse(list(empty), f"lack one of {list(wanted.values())}", "complete the table", ())
    report(problems, on_error, "left out")
    rows = rows.dropna()
    unused = len(table.index.difference(rows.index))
    if unused:
        logger.info("%d rows of the clinical table belong to none of the slides", unused)
    return {name: bags[name] for name in rows.index}, rows


def check_same_outcome(clinical: pd.DataFrame, hint: str) -> None:
    """Refuse patients whose slides have different outcomes.

    Raises
    ------
    InputValueError
        There are such patients; the text ends with ``hint``.
    """
    counts = clinical.groupby("patient").nunique()
    differing = list(counts.index[(counts > 1).any(axis=1)])
    if differing:
        msg = (
            f"{len(differing)} patients have slides with different outcomes "
            f"(first: {first_names(differing)}); {hint}"
        )
        raise InputValueError(msg)


@checked
def sample_bags(
    bags: Mapping[str, Bag], n_features: int | None = None, *, on_error: OnError = "raise"
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Look into every slide: is it readable, as wide as the others, finite?

    Up to 2,048 tiles of each, evenly spaced, are read, one slide after another.

    Parameters
    ----------
    bags
        The slides.
    n_features
        Their width; by default the most common one.
    on_error
        ``"raise"``: report all bad slides. ``"warn"``: name them and go on without.

    Returns
    -------
    For every sound slide mean and mean square of its features, ``[n_features]``.

    Raises
    ------
    InputValueError
        A slide is bad and ``on_error="raise"``, or none is sound.
    """
    if n_features is None:
        widths = pd.Series([bag.n_features for bag in bags.values()])
        n_features = int(widths.mode()[0])
    problems, moments = Problems(), {}
    for name, bag in bags.items():
        with problems.collect():
            if bag.n_features != n_features:
                msg = (
                    f"slide {name!r} has {bag.n_features} features where {n_features} are expected; "
                    "compute them with the same encoder"
                )
                raise InputValueError(msg)
            step = max(1, -(-bag.n_tiles // _SAMPLED_TILES))
            values = read_tiles(bag, np.arange(0, bag.n_tiles, step)).astype(np.float64)
            moments[name] = values.mean(0), (values**2).mean(0)
    report(problems, on_error, "left out")
    if not moments:
        msg = "none of the slides can be used"
        raise InputValueError(msg)
    return moments


def report(problems: Problems, on_error: OnError, consequence: str) -> None:
    """Raise what was collected, or warn of each and say what becomes of it."""
    if on_error == "raise":
        problems.raise_if_any()
    for problem in problems.found:
        warnings.warn(f"{problem} ({consequence})", UserWarning, stacklevel=3)


def check_on_error(on_error: str) -> None:
    """Refuse anything but the two ways to treat bad slides."""
    if on_error not in get_args(OnError):
        msg = f"on_error={on_error!r} is not known; choose 'raise' or 'warn'"
        raise InputValueError(msg)


def _by_slide(clinical: Any, slide_key: str | None) -> pd.DataFrame:
    if not isinstance(clinical, pd.DataFrame):
        msg = f"clinical is {type(clinical).__name__}; a DataFrame with one row per slide is needed"
        raise InputTypeError(msg)
    if slide_key is not None and slide_key not in clinical:
        msg = f"the clinical table has no column {slide_key!r}; it has {list(clinical)[:20]}"
        raise InputKeyError(msg)
    names = clinical.index if slide_key is None else clinical[slide_key]
    where = "the index" if slide_key is None else f"column {slide_key!r}"
    named = require_names(names, f"slides in {where} of the clinical table")
    table = clinical.set_axis(pd.Index(named, dtype=object), axis=0)
    repeated = table.index[table.index.duplicated()].unique()
    if len(repeated):
        msg = (
            f"{len(repeated)} slides have more than one row in the clinical table "
            f"(first: {first_names(repeated)}); keep one"
        )
        raise InputValueError(msg)
    return table


def _refuse(names: Sequence[str], problem: str, advice: str, examples: Sequence[str]) -> None:
    if names:
        shown = f" {', '.join(map(repr, examples))}, ..." if len(examples) else ""
        msg = f"{len(names)} slides {problem} (first: {first_names(names)}); {advice}{shown}"
        raise InputValueError(msg)
