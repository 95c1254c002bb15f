"""Outcomes of published slide cohorts, from the tables that come with them."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from rankbygene._arguments import checked
from rankbygene._names import require_names
from rankbygene._reading import reading, regular_file
from rankbygene.errors import InputKeyError, InputValueError

__all__ = ["bcnb_labels", "tcga_case", "tcga_clinical"]

logger = logging.getLogger("rankbygene")

_CASE = re.compile(r"(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})(?![A-Z0-9])", re.IGNORECASE)
# The portal put a prefix before its columns in 2024.
_CASE_ID = ("cases.submitter_id", "case_submitter_id")
_VITAL_STATUS = ("demographic.vital_status", "vital_status")
_DEATH = ("demographic.days_to_death", "days_to_death")
_LAST_CONTACT = ("diagnoses.days_to_last_follow_up", "days_to_last_follow_up")
_FOLLOW_UP = ("follow_ups.days_to_follow_up", "days_to_follow_up")
_GDC_MISSING = ("'--", "--")

_RECEPTORS = ("er", "pr", "her2")
_RECEPTOR_STATUS = ("Negative", "Positive")
_ALN_STATUS = ("N0", "N+(1-2)", "N+(>2)")
_BCNB_FILE = "patient-clinical-data.xlsx"
_BCNB_SPLITS = {"train": "train", "val": "validation", "test": "test"}


@checked
def tcga_clinical(path: str | Path, *, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Overall survival of TCGA patients, from the clinical tables of the GDC portal.

    A case has several rows there, one per diagnosis and treatment. The time of a patient who died is
    ``days_to_death``; that of any other is the last contact in any of the rows, at which the event is censored.

    Parameters
    ----------
    path
        Folder with the portal's ``clinical.tsv`` and, if downloaded, ``follow_up.tsv``, whose contacts
        count as well; or a file like ``clinical.tsv``.
    columns
        Further columns of ``clinical.tsv`` to keep. They need one value per patient.

    Returns
    -------
    One row per patient, indexed by the case's barcode as :func:`tcga_case` gives it. ``time`` is in
    days from diagnosis, ``event`` whether the patient died. Where the rows contradict each other or do
    not tell the time, both are missing and ``problem`` says why; elsewhere it is empty.

    Raises
    ------
    InputValueError
        The file is missing or is no such table, or one of ``columns`` has several values for a patient.
    InputKeyError
        A column is missing.

    Examples
    --------
    >>> patients = rbg.datasets.tcga_clinical("clinical.project-tcga-brca")  # doctest: +SKIP
    >>> patients = patients[patients["problem"] == ""]  # doctest: +SKIP
    """
    path = Path(path)
    file = path / "clinical.tsv" if path.is_dir() else path
    rows = _read_gdc(file)
    case = rows[_column(rows, _CASE_ID, file)]
    if case.isna().any():
        msg = f"{file}: {case.isna().sum():,} rows name no case"
        raise InputValueError(msg)
    last = _days(rows, _LAST_CONTACT, file).groupby(case).max()
    if path.is_dir() and (path / "follow_up.tsv").is_file():
        visits = _last_visits(path / "follow_up.tsv").reindex(last.index)
        last = pd.concat([last, visits], axis=1).max(axis=1)
    status = rows[_column(rows, _VITAL_STATUS, file)].str.capitalize()
    death = _days(rows, _DEATH, file)
    found = pd.DataFrame(
        {
            "status": status.groupby(case).first(),
            "n_status": status.groupby(case).nunique(),
            "death": death.groupby(case).min(),
            "n_death": death.groupby(case).nunique(),
            "last": last,
        }
    )
    patients = _survival(found)
    for column in columns:
        patients[column] = _one_per_case(rows, column, case, file)
    patients.index.name = "patient"
    _report(patients, file)
    return patients


@checked
def tcga_case(slide: str | Path) -> str:
    """Barcode of the case that a TCGA slide, or anything named after it, comes from.

    Raises
    ------
    InputValueError
        The name does not begin with a barcode.

    Examples
    --------
    >>> tcga_case("slides/TCGA-A1-A0SB-01Z-00-DX1.B34C267B-CAAA-4AB6-AD5C-276C26F997A1.svs")
    'TCGA-A1-A0SB'
    """
    name = Path(slide).name
    found = _CASE.match(name)
    if found is None:
        msg = f"{name!r} does not begin with a barcode such as TCGA-A1-A0SB-01Z-00-DX1"
        raise InputValueError(msg)
    return found[1].upper()


@checked
def bcnb_labels(path: str | Path) -> pd.DataFrame:
    """Labels of the BCNB cohort: 1,058 core-needle biopsies of early breast cancer.

    Parameters
    ----------
    path
        The published folder, with ``patient-clinical-data.xlsx`` and ``dataset-splitting``; or the table
        alone, as ``.xlsx`` (needs ``openpyxl``: ``pip install rankbygene[wsi]``) or ``.csv``.

    Returns
    -------
    One row per patient, indexed by the id, which is also the name of the slide (``"7"`` for ``7.jpg``). Columns
    are those of the table in lower case without units. ``er``, ``pr`` and ``her2`` are Negative or Positive,
    ``aln_status`` is ordered: N0, N+(1-2), N+(>2). ``split`` is the published one, from the folder.

    Raises
    ------
    InputValueError
        The file cannot be read, a patient is repeated, or a label is unknown.
    InputKeyError
        A column is missing.

    References
    ----------
    :cite:p:`xu2021bcnb`.
    """
    path = Path(path)
    file = path / _BCNB_FILE if path.is_dir() else path
    labels = _read_sheet(file)
    labels.columns = pd.Index([_plain_name(column) for column in labels])
    missing = [c for c in ("patient_id", "aln_status", *_RECEPTORS) if c not in labels]
    if missing:
        msg = f"{file} has no column {missing}; it has {list(labels)}"
        raise InputKeyError(msg)
    labels = labels.set_index("patient_id").rename_axis("patient")
    ids = require_names(labels.index, f"patients in {file}")
    labels.index = pd.Index(ids, dtype=object, name="patient").str.strip()
    if not labels.index.is_unique:
        repeated = labels.index[labels.index.duplicated()].unique()
        msg = f"{file}: {len(repeated)} patients are repeated (first: {', '.join(repeated[:3])})"
        raise InputValueError(msg)
    for receptor in _RECEPTORS:
        labels[receptor] = _categories(labels[receptor], _RECEPTOR_STATUS, file)
    labels["aln_status"] = _categories(labels["aln_status"], _ALN_STATUS, file, ordered=True)
    if path.is_dir() and (path / "dataset-splitting").is_dir():
        labels["split"] = _published_split(path / "dataset-splitting", labels.index)
    return labels


def _survival(found: pd.DataFrame) -> pd.DataFrame:
    """Times and events, or what stands against them."""
    dead = found["status"] == "Dead"
    time = found["death"].where(dead, found["last"])
    problem = pd.Series("", index=found.index)
    # From the mildest to the gravest, which is what remains.
    for wrong, text in (
        (time.isna() & dead, "died, days_to_death is missing"),
        (time.isna() & ~dead, "no day of a last contact"),
        (time < 0, "the time is negative"),
        (
            (found["status"] == "Alive") & (found["n_death"] > 0),
            "alive, but days_to_death is given",
        ),
        (found["n_death"] > 1, "several values of days_to_death"),
        (~found["status"].isin(["Alive", "Dead"]), "vital_status is not known"),
        (found["n_status"] > 1, "several values of vital_status"),
    ):
        problem[wrong] = text
    fine = problem == ""
    return pd.DataFrame(
        {
            "time": time.where(fine),
            "event": dead.astype("boolean").where(fine),
            "problem": problem,
        }
    )


def _report(patients: pd.DataFrame, file: Path) -> None:
    bad = patients[patients["problem"] != ""]
    if len(bad):
        first = "; ".join(f"{case}: {text}" for case, text in bad["problem"].head(3).items())
        logger.warning(
            "%s: %d of %d patients have no usable time, see the column 'problem' (first: %s)",
            file,
            len(bad),
            len(patients),
            first,
        )


def _read_gdc(file: Path) -> pd.DataFrame:
    with reading(regular_file(file), "a clinical table"):
        table: pd.DataFrame = pd.read_csv(
            file, sep="\t", dtype=str, na_values=list(_GDC_MISSING), quoting=csv.QUOTE_NONE
        )
    return table


def _column(rows: pd.DataFrame, names: Sequence[str], file: Path) -> str:
    for name in names:
        if name in rows:
            return name
    msg = f"{file} has no column {' or '.join(map(repr, names))}; it has {list(rows)[:8]} ..."
    raise InputKeyError(msg)


def _days(rows: pd.DataFrame, names: Sequence[str], file: Path) -> pd.Series:
    name = _column(rows, names, file)
    days = pd.to_numeric(rows[name], errors="coerce")
    wrong = rows[name][rows[name].notna() & days.isna()]
    if len(wrong):
        msg = f"{file}: column {name!r} must hold days; {len(wrong)} values are none (first: {wrong.iloc[0]!r})"
        raise InputValueError(msg)
    return days


def _last_visits(file: Path) -> pd.Series:
    rows = _read_gdc(file)
    return _days(rows, _FOLLOW_UP, file).groupby(rows[_column(rows, _CASE_ID, file)]).max()


def _one_per_case(rows: pd.DataFrame, column: str, case: pd.Series, file: Path) -> pd.Series:
    groups = rows[_column(rows, [column], file)].groupby(case)
    several = groups.nunique()
    several = several[several > 1]
    if len(several):
        msg = (
            f"{file}: column {column!r} has several values for {len(several)} patients "
            f"(first: {', '.join(map(str, several.index[:3]))}); read it from the table itself"
        )
        raise InputValueError(msg)
    return groups.first()


def _read_sheet(file: Path) -> pd.DataFrame:
    with reading(regular_file(file), "a table"):
        try:
            is_text = file.suffix.lower() == ".csv"
            table: pd.DataFrame = pd.read_csv(file) if is_text else pd.read_excel(file)
        except ImportError as error:
            msg = f"reading {file} needs openpyxl: `pip install rankbygene[wsi]`"
            raise InputValueError(msg) from error
    return table


def _plain_name(column: object) -> str:
    """Lower case, without a unit in brackets: ``"Tumour Size(cm)"`` to ``"tumour_size"``."""
    name = re.sub(r"\(.*?\)", "", str(column)).strip().lower()
    return re.sub(r"\W+", "_", name)


def _categories(
    values: pd.Series, known: Sequence[str], file: Path, *, ordered: bool = False
) -> pd.Series:
    # Some editions write the full-width sign.
    texts = values.astype("string").str.strip().str.replace("\uff1e", ">")
    unknown = texts[texts.notna() & ~texts.isin(known)]
    if len(unknown):
        msg = (
            f"{file}: {values.name!r} must be one of {', '.join(known)}; patient {unknown.index[0]} has "
            f"{unknown.iloc[0]!r} ({len(unknown)} such patients)"
        )
        raise InputValueError(msg)
    return texts.astype(pd.CategoricalDtype(list(known), ordered=ordered))


def _published_split(folder: Path, patients: pd.Index) -> pd.Series:
    split = pd.Series(pd.NA, index=patients, dtype="string")
    for part, label in _BCNB_SPLITS.items():
        file = folder / f"{part}_id.txt"
        ids = file.read_text(encoding="utf-8").split() if file.is_file() else []
        absent = [patient for patient in ids if patient not in split.index]
        twice = [patient for patient in ids if patient in split.index and pd.notna(split[patient])]
        for wrong, text in ((absent, "are not in the table"), (twice, "are in several parts")):
            if wrong:
                msg = f"{file}: {len(wrong)} patients {text} (first: {', '.join(wrong[:3])})"
                raise InputValueError(msg)
        split[ids] = label
    return split.astype(pd.CategoricalDtype(list(_BCNB_SPLITS.values())))
