"""Published tissue, read from local folders."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from rankbygene._arguments import checked
from rankbygene._names import label_texts, natural_order
from rankbygene._reading import reading, regular_file
from rankbygene.errors import InputKeyError, InputValueError
from rankbygene.io import read_legacy_st

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from spatialdata import SpatialData

__all__ = ["her2st", "olfactory_bulb"]

DATA_VARIABLE = "RANKBYGENE_DATA"
# The 2,000-spot array counts half steps of the 200 um of the first array, and spots sit on every
# other place like the fields of one colour on a chess board. The tissue then measures 3.8 x 2.8 mm
# on it, as on the first array.
_PITCH_2K_UM = 100.0
# Spots are hundreds of pixels apart; files differ in the last written place of a position.
_SAME_PLACE_PX = 0.5
# A section has some spots without a label, and hardly a label without a spot.
_MOST_LABELS = 0.9


@checked
def her2st(
    path: str | Path | None = None, sections: Sequence[str] | None = None
) -> dict[str, SpatialData]:
    """HER2-positive breast cancer on legacy Spatial Transcriptomics arrays.

    Parameters
    ----------
    path
        The folder ``data`` published at https://github.com/almaan/her2st, with ``ST-cnts``,
        ``ST-imgs``, ``ST-spotfiles`` and, if present, ``ST-cluster``. Images lie in
        ``<patient>/<section>/`` as published, or are named ``<section>.jpg``. By default the folder
        ``her2st`` in the folder that the environment variable ``RANKBYGENE_DATA`` names.
    sections
        Such as ``["C2", "C3"]``; by default all that have counts.

    Returns
    -------
    ``{section: SpatialData}``; ``obs`` has ``patient``, ``section`` and, where published,
    ``cluster`` (expression clusters; missing for some spots).

    Raises
    ------
    InputValueError
        The folder is not there.
    InputKeyError
        A section is not there.

    References
    ----------
    :cite:p:`andersson2021her2st`.
    """
    folder = _folder(path, "her2st", "https://github.com/almaan/her2st")
    found = {file.name.split(".")[0]: file for file in sorted((folder / "ST-cnts").glob("*.tsv*"))}
    slides = {}
    for section in _chosen(sections, found, folder):
        sdata = read_legacy_st(
            found[section],
            _one(folder / "ST-imgs", f"{section}.*", f"*/{section}/*.jpg"),
            _one(folder / "ST-spotfiles", f"{section}_selection.tsv"),
            name=section,
            obs_columns=["pixel_x", "pixel_y"],
        )
        obs = sdata.tables["table"].obs
        obs["patient"] = pd.Categorical([section[0]] * len(obs))
        obs["section"] = pd.Categorical([section] * len(obs))
        if clusters := sorted((folder / "ST-cluster").rglob(f"{section}-cluster-annotation.tsv*")):
            obs["cluster"] = _clusters(clusters[0], obs)
        slides[section] = sdata
    return slides


@checked
def olfactory_bulb(
    path: str | Path | None = None,
    *,
    array: Literal["2k", "stahl"] = "2k",
    sections: Sequence[str] | None = None,
) -> dict[str, SpatialData]:
    """Mouse olfactory bulb on legacy Spatial Transcriptomics arrays.

    Parameters
    ----------
    path
        Folder of the array's files. By default the folder ``stutility_mob`` (``"2k"``) or
        ``mob_stahl`` (``"stahl"``) in the folder that ``RANKBYGENE_DATA`` names. ``"2k"`` needs
        ``<section>.tsv.gz``, ``<section>.jpg``, ``alignment_table_<section>.tsv``,
        ``mouse_genes.tsv.gz`` (``gene_id``, ``gene_name``) and ``sections.csv`` (``section``,
        ``animal``); ``"stahl"`` needs ``Rep11_MOB_count_matrix-1.tsv.gz``, ``Rep11.jpg`` and
        ``Rep11_spots.csv`` (``id``, ``x``, ``y``, ``pixel_x``, ``pixel_y``, ``layer``).
    array
        ``"2k"``: four sections of two animals on the denser array, as published with STUtility;
        ``"stahl"``: replicate 11 of the first publication, with the anatomical layer of each spot
        in ``obs["layer"]``.
    sections
        Such as ``["MOB1"]``; by default all that are there.

    Returns
    -------
    ``{section: SpatialData}``; ``obs`` has ``patient`` (the animal) and ``section``.

    Raises
    ------
    InputValueError
        The folder is not there.
    InputKeyError
        A section is not there.

    References
    ----------
    :cite:p:`stahl2016spatial,bergenstrahle2020stutility`.
    """
    if array not in ("2k", "stahl"):
        msg = f"array must be '2k' or 'stahl', found {array!r}"
        raise InputValueError(msg)
    if array == "stahl":
        folder = _folder(path, "mob_stahl", "https://github.com/almaan/sepal")
        found = {"Rep11": _one(folder, "Rep11_MOB_count_matrix*.tsv*")}
        animals = {"Rep11": "Rep11"}
    else:
        folder = _folder(path, "stutility_mob", "https://github.com/jbergenstrahle/STUtility")
        found = {file.name.split(".")[0]: file for file in sorted(folder.glob("MOB*.tsv*"))}
        animals = _animals(folder)
    slides = {}
    for section in _chosen(sections, found, folder):
        read = _read_stahl if array == "stahl" else _read_2k
        sdata = read(folder, section, found[section])
        obs = sdata.tables["table"].obs
        obs["patient"] = pd.Categorical([animals[section]] * len(obs))
        obs["section"] = pd.Categorical([section] * len(obs))
        slides[section] = sdata
    return slides


def _read_stahl(folder: Path, section: str, counts: Path) -> SpatialData:
    return read_legacy_st(
        counts,
        folder / f"{section}.jpg",
        folder / f"{section}_spots.csv",
        name=section,
        spot_id="id",
        obs_columns=["layer"],
    )


def _read_2k(folder: Path, section: str, counts: Path) -> SpatialData:
    sdata = read_legacy_st(
        counts,
        folder / f"{section}.jpg",
        folder / f"alignment_table_{section}.tsv",
        name=section,
        pitch_um=_PITCH_2K_UM,
        spot_diameter_um=55.0,
    )
    var = sdata.tables["table"].var
    names = folder / "mouse_genes.tsv.gz"
    with reading(regular_file(names), "a table of gene_id and gene_name"):
        genes = pd.read_csv(names, sep="\t").set_index("gene_id")["gene_name"]
    symbols = genes[~genes.index.duplicated()].reindex(var.index)
    var["gene_id"] = var.index
    sdata.tables["table"].var_names = symbols.where(symbols.notna(), var.index).astype(str)
    sdata.tables["table"].var_names_make_unique()
    return sdata


def _animals(folder: Path) -> dict[str, str]:
    path = folder / "sections.csv"
    if not path.is_file():
        msg = f"{path} is missing; it names the animal of each section (columns section, animal)"
        raise InputValueError(msg)
    with reading(path, "a table"):
        table = pd.read_csv(path, dtype=str)
    missing = [column for column in ("section", "animal") if column not in table]
    if missing:
        msg = f"{path} has no column {missing}; it has {list(table)}"
        raise InputKeyError(msg)
    return dict(zip(table["section"], "mouse_" + table["animal"], strict=True))


def _clusters(path: Path, obs: pd.DataFrame) -> pd.Categorical:
    """Join cluster labels on the pixel position, the key that every edition of the file has.

    Positions are compared as numbers: the file writes ``6701.0`` where another writes ``6701``.

    Raises
    ------
    InputValueError
        A row of the file has no position, or the labels are those of other spots.
    """
    from scipy.spatial import cKDTree

    with reading(path, "a table"):
        table = pd.read_csv(path, sep="\t", index_col=0)
    places = _places(table, path)
    distance, nearest = cKDTree(places).query(obs[["pixel_x", "pixel_y"]].to_numpy(np.float64))
    found = np.flatnonzero(distance <= _SAME_PLACE_PX)
    n_used = len(np.unique(nearest[found]))
    if n_used < len(found) or n_used < _MOST_LABELS * len(table):
        msg = (
            f"{path}: {n_used:,} of its {len(table):,} labels lie at one of the {len(obs):,} spots each; "
            "it belongs to another section, or positions are repeated"
        )
        raise InputValueError(msg)
    names: NDArray[np.object_] = np.full(len(obs), None, dtype=object)
    names[found] = label_texts(table["label"])[nearest[found]]
    return pd.Categorical(names, categories=natural_order(n for n in names if n is not None))


def _places(table: pd.DataFrame, path: Path) -> NDArray[np.float64]:
    """Pixel positions of the rows of a cluster table, which are also their names."""
    parts = [str(name).split("x") for name in table.index]
    try:
        places = np.array([[float(x), float(y)] for x, y in parts], np.float64)
    except ValueError as error:
        msg = f"{path}: rows must be named <pixel_x>x<pixel_y> ({error})"
        raise InputValueError(msg) from error
    return places


def _folder(path: str | Path | None, name: str, source: str) -> Path:
    root = os.environ.get(DATA_VARIABLE)
    if path is None and root is None:
        msg = f"pass path=... of a local copy of {source}, or set {DATA_VARIABLE} to its parent folder"
        raise InputValueError(msg)
    folder = Path(path) if path is not None else Path(str(root)) / name
    if not folder.is_dir():
        msg = f"{folder} is not a folder; the data is published at {source}"
        raise InputValueError(msg)
    return folder


def _chosen(sections: Sequence[str] | None, found: Mapping[str, Path], folder: Path) -> list[str]:
    missing = [section for section in sections or () if section not in found]
    if missing or not found:
        msg = f"{folder} has sections {list(found)}" + (f", not {missing}" if missing else "")
        raise InputKeyError(msg)
    return list(found) if sections is None else list(sections)


def _one(folder: Path, *patterns: str) -> Path:
    files = sorted({file for pattern in patterns for file in folder.glob(pattern)})
    if len(files) != 1:
        wanted = " or ".join(repr(pattern) for pattern in patterns)
        msg = f"{folder} has {len(files)} files {wanted}; exactly one is needed"
        raise InputValueError(msg)
    return files[0]
