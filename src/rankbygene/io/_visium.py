"""10x Visium, through spatialdata-io."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import tifffile
from PIL import Image

from rankbygene._arguments import checked
from rankbygene._reading import reading, regular_file
from rankbygene.errors import InputValueError, Problems
from rankbygene.io._assemble import element_name
from rankbygene.io._hdf5 import open_h5
from rankbygene.io._hest import is_positive, read_json_object
from rankbygene.io._tiff import ORIENTATION, open_tiff

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = ["read_visium"]

# In the order in which spatialdata-io looks for them.
_POSITIONS = ("tissue_positions_list.csv", "tissue_positions.csv")
_POSITION_COLUMNS = (
    "barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres",
)  # fmt: skip
_FACTORS = ("tissue_hires_scalef", "tissue_lowres_scalef", "spot_diameter_fullres")


@checked
def read_visium(
    path: str | Path,
    *,
    dataset_id: str | None = None,
    fullres_image_file: str | Path | None = None,
    counts_file: str = "filtered_feature_bc_matrix.h5",
) -> SpatialData:
    """Read a Space Ranger folder.

    :func:`spatialdata_io.visium` with unique gene names. Without the full-resolution image the
    object holds the ``hires`` and ``lowres`` pictures, which are too coarse for tiles of 112 um
    at 224 px; a model then refuses them unless tiles are made smaller and the picture is named.

    Parameters
    ----------
    path
        Folder with the counts and the folder ``spatial``.
    dataset_id
        Prefix of the elements; by default the folder's name, with ``_`` for characters that
        SpatialData does not allow in names.
    fullres_image_file
        The image that was given to Space Ranger.
    counts_file
        Name of the count matrix.

    Raises
    ------
    InputValueError
        Files are missing or damaged, barcodes have no position, or an image is stored on its side;
        all such problems are named.
    """
    from spatialdata_io import visium

    folder = Path(path)
    if not folder.is_dir():
        msg = f"{folder} is not a folder; pass the folder that Space Ranger wrote"
        raise InputValueError(msg)
    image = None if fullres_image_file is None else Path(fullres_image_file)
    problems = Problems(f"{folder} is not a Space Ranger folder, or not a whole one")
    barcodes: set[str] = set()
    with problems.collect():
        barcodes = _read_barcodes(folder / counts_file)
    with problems.collect():
        _check_scale_factors(folder / "spatial" / "scalefactors_json.json")
    with problems.collect():
        _check_positions(folder / "spatial", barcodes)
    for picture in [*sorted((folder / "spatial").glob("tissue_*res_image.*")), image]:
        with problems.collect():
            if picture is not None:
                _check_image(picture)
    problems.raise_if_any()
    with reading(folder, "the output of Space Ranger"):
        sdata: SpatialData = visium(
            folder,
            dataset_id=dataset_id or element_name(folder.resolve().name),
            counts_file=counts_file,
            fullres_image_file=image,
            var_names_make_unique=True,
        )
    return sdata


def _read_barcodes(path: Path) -> set[str]:
    with open_h5(path, "a count matrix of 10x (HDF5)") as file:
        matrix = file["matrix"]
        barcodes = {name.decode() for name in matrix["barcodes"][:]}
        n_columns = len(matrix["barcodes"])
        whole = len(matrix["indptr"]) == n_columns + 1 and int(matrix["indptr"][-1]) == len(
            matrix["data"]
        )
    if not whole:
        msg = f"{path} is damaged: its barcodes and its counts differ in number"
        raise InputValueError(msg)
    return barcodes


def _check_scale_factors(path: Path) -> None:
    factors = read_json_object(regular_file(path))
    wrong = [
        f"{name} is {factors.get(name)!r}"
        for name in _FACTORS
        if not is_positive(factors.get(name))
    ]
    if wrong:
        msg = f"{path}: {', '.join(wrong)}; positive numbers are needed. Get the file again"
        raise InputValueError(msg)


def _check_positions(folder: Path, barcodes: set[str]) -> None:
    """Refuse positions that lack a barcode of the counts, which would have no place."""
    path = next((folder / name for name in _POSITIONS if (folder / name).exists()), None)
    if path is None:
        others = [item.name for item in folder.glob("*tissue_positions*")]
        found = f"; there is {', '.join(others)}, which is not read" if others else ""
        msg = f"{folder} has no {' or '.join(_POSITIONS)}{found}"
        raise InputValueError(msg)
    with reading(regular_file(path), "a table of spots (CSV)"):
        table = pd.read_csv(path, header=None, dtype=str)
        if table.iloc[0, 0] == "barcode":
            table = table.iloc[1:]
        if table.shape[1] != len(_POSITION_COLUMNS):
            msg = f"{table.shape[1]} columns, not the {len(_POSITION_COLUMNS)} of Space Ranger"
            raise ValueError(msg)
        table.columns = pd.Index(_POSITION_COLUMNS)
        numbers = table[list(_POSITION_COLUMNS[1:])].apply(pd.to_numeric)
    names = table["barcode"]
    problems = {
        "occur more than once": names[names.duplicated()],
        "have no position": pd.Series(sorted(barcodes - set(names)), dtype=object),
        "have a position that is no number": names[~np.isfinite(numbers).all(axis=1)],
    }
    for problem, found in problems.items():
        if len(found):
            msg = (
                f"{path}: {len(found)} of {len(barcodes)} barcodes {problem} "
                f"(first: {', '.join(found[:3])}); take positions and counts of the same run"
            )
            raise InputValueError(msg)


def _check_image(path: Path) -> None:
    """Decode a picture, and of a TIFF a part: the rest is read when tiles are cut."""
    try:
        with tifffile.TiffFile(regular_file(path)):
            pass
    except tifffile.TiffFileError:
        with reading(path, "an image"), warnings.catch_warnings():
            # Scans of 100 megapixels are normal here.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                turned = picture.getexif().get(ORIENTATION, 1) != 1
                picture.load()
    else:
        turned = open_tiff(path).orientation != 1
    if turned:
        msg = (
            f"{path} is stored on its side (orientation tag), so that positions in its pixels may be "
            "meant either way; save it upright, without the tag"
        )
        raise InputValueError(msg)
