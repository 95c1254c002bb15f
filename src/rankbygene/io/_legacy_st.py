"""Legacy Spatial Transcriptomics arrays: a table of counts, an image, a table of spots."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from PIL import Image, ImageOps
from scipy.sparse import csr_matrix

from rankbygene._arguments import checked
from rankbygene._names import number_text, require_names
from rankbygene._reading import reading, regular_file
from rankbygene.data.slides._images import over_white
from rankbygene.data.slides._pixel_size import check_um_per_px
from rankbygene.errors import InputKeyError, InputValueError
from rankbygene.io._assemble import assemble
from rankbygene.io._tiff import ORIENTATION

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from spatialdata import SpatialData

__all__ = ["read_legacy_st"]

logger = logging.getLogger(__name__)

PITCH_UM, SPOT_UM = 200.0, 100.0
_MODES = ("RGB", "RGBA", "RGBX", "L", "LA", "P", "CMYK", "YCbCr")


@checked
def read_legacy_st(
    counts: str | Path,
    image: str | Path,
    spots: str | Path,
    *,
    name: str = "slide",
    spot_id: str | None = None,
    array: tuple[str, str] = ("x", "y"),
    pixels: tuple[str, str] = ("pixel_x", "pixel_y"),
    selected: str | None = "selected",
    obs_columns: Sequence[str] = (),
    pitch_um: float = PITCH_UM,
    spot_diameter_um: float = SPOT_UM,
    um_per_px: float | None = None,
    scale_factors: Sequence[int] | None = (2, 2),
) -> SpatialData:
    """Read a slide of a legacy Spatial Transcriptomics array.

    Parameters
    ----------
    counts
        Tab-separated counts, one row per spot and one column per gene; may be compressed.
    image
        H&E image of the slide.
    spots
        Table of spots, tab- or comma-separated by its ending.
    name
        Name of the slide: the image is ``<name>_image``, the spots are ``<name>_spots``.
    spot_id
        Column of ``spots`` that holds the row names of ``counts``. By default they are made of
        the array coordinates, ``f"{x}x{y}"``, and compared as numbers.
    array
        Columns with the array coordinates, x then y.
    pixels
        Columns with the spot centre in pixels of ``image``, x then y.
    selected
        Column that is 1 for spots on tissue; ignored where it is absent.
    obs_columns
        Further columns of ``spots`` to keep.
    pitch_um
        Distance on the tissue of array coordinates that differ by 1.
    spot_diameter_um
        Diameter of a spot.
    um_per_px
        Micrometres per pixel. By default fitted: how far apart spots lie in pixels against
        ``pitch_um``.
    scale_factors
        Pyramid of the image; None makes a single-scale image.

    Returns
    -------
    Image, circles and ``table`` with counts in ``X``, in systems ``global`` (pixels of the image)
    and ``um``. ``obs`` has ``array_row`` and ``array_col``.

    Raises
    ------
    InputKeyError
        A column is missing.
    InputValueError
        Spots and counts share no id or repeat one, counts are not integers, positions are not
        numbers, a length is not positive, or a file cannot be read.
    """
    _check_lengths(pitch_um=pitch_um, spot_diameter_um=spot_diameter_um)
    if um_per_px is not None:
        um_per_px = check_um_per_px(um_per_px, "um_per_px")
    positions = _read_spots(Path(spots), spot_id, array, pixels, selected, obs_columns)
    matrix = _read_counts(Path(counts))
    matrix, positions = _join(matrix, positions, Path(counts), Path(spots))
    centers = positions[list(pixels)].to_numpy(np.float64)
    index = positions[list(array)].to_numpy(np.float64)
    if um_per_px is None:
        source = f"the array in {spots}, with pitch_um={pitch_um:g},"
        um_per_px = check_um_per_px(pitch_um / fit_pitch(index, centers), source)
    obs = positions[list(obs_columns)].copy()
    obs["array_row"], obs["array_col"] = np.rint(index[:, ::-1]).astype(np.int64).T
    table = ad.AnnData(
        X=csr_matrix(matrix.to_numpy(np.float32)),
        obs=obs,
        var=pd.DataFrame(index=matrix.columns.astype(str)),
    )
    table.var_names_make_unique()
    return assemble(
        name,
        read_image(Path(image)),
        centers,
        table,
        um_per_px=um_per_px,
        spot_diameter_um=spot_diameter_um,
        scale_factors=scale_factors,
    )


def read_image(path: Path, *, turn: bool = False) -> NDArray[np.uint8]:
    """Read an RGB image ``[3, y, x]``.

    Parameters
    ----------
    path
        The file.
    turn
        Turn a picture that is stored on its side as its orientation tag says. Without it such a picture is
        refused: positions in its pixels may be meant either way.

    Raises
    ------
    InputValueError
        The file is missing or not an image, lies on its side, or is so large that Pillow takes it for an
        attack.
    """
    with reading(regular_file(path), "an image"):
        with warnings.catch_warnings():
            # Scans of 100 megapixels are normal here; Pillow's hard limit at twice that stays.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                # Pillow would cut 16 bits off at 255 instead of scaling them.
                if picture.mode not in _MODES:
                    msg = f"image {path} has mode {picture.mode!r}; convert it to RGB of 8 bits"
                    raise InputValueError(msg)
                if not turn and picture.getexif().get(ORIENTATION, 1) != 1:
                    msg = (
                        f"image {path} is stored on its side (orientation tag), so that positions in its "
                        "pixels may be meant either way; save it upright, without the tag"
                    )
                    raise InputValueError(msg)
                clear = picture.has_transparency_data
                upright = ImageOps.exif_transpose(picture)
                pixels = np.asarray(upright.convert("RGBA" if clear else "RGB"))
    channels = pixels.transpose(2, 0, 1)
    return over_white(channels[:3], channels[3]) if clear else channels


def fit_pitch(index: NDArray[np.float64], centers: NDArray[np.float64]) -> float:
    """Pixels per step of the array, by least squares over both axes.

    Parameters
    ----------
    index, centers
        Array coordinates and pixels of the spots, ``[n, 2]``.

    Raises
    ------
    InputValueError
        The spots lie on one line, or the array is not square in the image.
    """
    design = np.column_stack([np.ones(len(index)), index])
    solution, _, rank, _ = np.linalg.lstsq(design, centers, rcond=None)
    steps = np.linalg.norm(solution[1:], axis=1)
    if rank < 3 or steps.min() <= 0 or steps.max() > 1.15 * steps.min():
        msg = (
            f"no square array fits the spots (steps of {steps.round(1).tolist()} pixels along x and "
            "y); check the columns, or pass um_per_px=..."
        )
        raise InputValueError(msg)
    return float(np.sqrt(steps.prod()))


def _read_spots(
    path: Path,
    spot_id: str | None,
    array: tuple[str, str],
    pixels: tuple[str, str],
    selected: str | None,
    obs_columns: Sequence[str],
) -> pd.DataFrame:
    spots = _read_table(path)
    wanted = [*array, *pixels, *obs_columns, *([spot_id] if spot_id else [])]
    missing = [column for column in wanted if column not in spots]
    if missing:
        msg = f"{path} has no column {missing}; it has {list(spots)}"
        raise InputKeyError(msg)
    if selected is not None and selected in spots:
        spots = spots[spots[selected] == 1]
        if spots.empty:
            msg = f"{path}: no spot has 1 in column {selected!r}; pass selected=None to keep all spots"
            raise InputValueError(msg)
    spots = _check_numbers(spots, [*array, *pixels], path)
    if spot_id is None:
        x, y = (spots[column].map(number_text) for column in array)
        return spots.set_axis(pd.Index(x + "x" + y, dtype=object))
    return spots.set_axis(pd.Index(require_names(spots[spot_id], f"spots of {path}"), dtype=object))


def _place_names(names: pd.Index) -> pd.Index:
    """Read ids of spots that are places ``<x>x<y>`` as numbers, however they are written."""
    return pd.Index([_place_name(str(name)) for name in names], dtype=object)


def _place_name(name: str) -> str:
    """Write a place of the array as numbers are: ``"7.0x12"`` is ``"7x12"``."""
    parts = name.split("x")
    try:
        return "x".join(number_text(float(part)) for part in parts) if len(parts) == 2 else name
    except ValueError:
        return name


def _check_numbers(spots: pd.DataFrame, columns: Sequence[str], path: Path) -> pd.DataFrame:
    numbers = spots.assign(**{c: pd.to_numeric(spots[c], errors="coerce") for c in columns})
    for column in columns:
        bad = ~np.isfinite(numbers[column].to_numpy(np.float64))
        if bad.any():
            msg = (
                f"{path}: column {column!r} must hold finite numbers; {bad.sum()} of {len(spots)} spots "
                f"have none (first: {spots[column][bad].iloc[0]!r})"
            )
            raise InputValueError(msg)
    return numbers


def _check_lengths(**lengths: float) -> None:
    for name, value in lengths.items():
        if not (np.isfinite(value) and value > 0):
            msg = f"{name} must be a positive number, found {value}"
            raise InputValueError(msg)


def _read_counts(path: Path) -> pd.DataFrame:
    matrix = _read_table(path, index_col=0)
    matrix.index = pd.Index(require_names(matrix.index, f"spots of {path}"), dtype=object)
    try:
        values = matrix.to_numpy(np.float64)
    except ValueError as error:
        msg = f"{path} holds something that is not a number: {error}"
        raise InputValueError(msg) from error
    if not (
        np.isfinite(values).all() and (values >= 0).all() and (values == np.rint(values)).all()
    ):
        msg = f"{path} holds values that are not counts (min {values.min()}, max {values.max()})"
        raise InputValueError(msg)
    return matrix


def _read_table(path: Path, index_col: int | None = None) -> pd.DataFrame:
    separator = "," if ".csv" in path.suffixes else "\t"
    with reading(regular_file(path), "a table"):
        table: pd.DataFrame = pd.read_csv(path, sep=separator, index_col=index_col)
    return table


def _join(
    matrix: pd.DataFrame, spots: pd.DataFrame, counts_path: Path, spots_path: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keep the spots that have both counts and a position, in the order of the counts."""
    own, selected = _place_names(matrix.index), _place_names(spots.index)
    for path, names in ((counts_path, own), (spots_path, selected)):
        repeated = names[names.duplicated()].unique()
        if len(repeated):
            msg = f"{path}: {len(repeated)} spots are repeated (first: {', '.join(repeated[:3])})"
            raise InputValueError(msg)
    shared = own.isin(selected)
    n_shared = int(shared.sum())
    if not n_shared:
        msg = (
            f"no row of {counts_path} ({', '.join(matrix.index[:3])}, ...) is a spot of {spots_path} "
            f"({', '.join(spots.index[:3])}, ...); rows of the counts must be spots; "
            "pass the column with the ids as spot_id=..."
        )
        raise InputValueError(msg)
    logger.info(
        "%s: %d spots; %d rows of counts have no selected position, %d positions have no counts",
        counts_path.name,
        n_shared,
        len(matrix) - n_shared,
        len(spots) - n_shared,
    )
    found = matrix[shared]
    positions = spots.iloc[selected.get_indexer(own[shared])]
    return found, positions.set_axis(found.index)
