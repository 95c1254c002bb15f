"""Samples of HEST-1k, from a local copy or from the hub."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import anndata as ad
import numpy as np

from rankbygene._arguments import checked
from rankbygene._reading import reading
from rankbygene.data.slides._pixel_size import check_um_per_px
from rankbygene.errors import InputKeyError, InputValueError
from rankbygene.io._assemble import assemble
from rankbygene.io._hdf5 import open_h5
from rankbygene.io._tiff import lazy_rgb, orientation_of

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = ["read_hest"]

DATASET = "MahmoodLab/hest"
_PIXEL_SIZE = "pixel_size_um_estimated"
_VISIUM_SPOT_UM = 55.0
_SAMPLE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@checked
def read_hest(
    sample_id: str, path: str | Path | None = None, *, um_per_px: float | None = None
) -> SpatialData:
    """Read a sample of HEST-1k.

    Parameters
    ----------
    sample_id
        Such as ``"TENX95"``.
    path
        Folder with the published layout: ``st/<id>.h5ad``, ``wsis/<id>.tif`` and
        ``metadata/<id>.json``. By default the sample is fetched from the Hugging Face hub, which asks
        for acceptance of its terms (CC-BY-NC-SA-4.0) and a login.
    um_per_px
        Micrometres per pixel of the image; goes before what the metadata say.

    Returns
    -------
    Full-resolution image ``<id>_image`` (read lazily), circles ``<id>_spots`` and ``table`` with the
    counts, in systems ``global`` (full-resolution pixels) and ``um``. ``obs["patient"]`` is set
    where the metadata names one.

    Raises
    ------
    InputValueError
        A file is missing or damaged, the pixel size is unknown, or the hub cannot be reached.
    InputKeyError
        The table has no positions.

    References
    ----------
    :cite:p:`jaume2024hest`.
    """
    # The name becomes part of paths and, on the hub, of patterns: "*" would fetch the whole set.
    if not _SAMPLE_ID.fullmatch(sample_id):
        msg = f"{sample_id!r} is not a name of a HEST sample; they look like 'TENX95'"
        raise InputValueError(msg)
    folder = _download(sample_id) if path is None else Path(path)
    files = {
        "counts": folder / "st" / f"{sample_id}.h5ad",
        "image": folder / "wsis" / f"{sample_id}.tif",
        "metadata": folder / "metadata" / f"{sample_id}.json",
    }
    missing = [str(file) for file in files.values() if not file.is_file()]
    if missing:
        msg = f"HEST sample {sample_id!r} is not complete: {', '.join(missing)} missing"
        raise InputValueError(msg)
    metadata = read_json_object(files["metadata"])
    written = f"{_PIXEL_SIZE!r} in {files['metadata']}"
    if um_per_px is None:
        um_per_px = check_um_per_px(metadata.get(_PIXEL_SIZE), written)
    else:
        um_per_px = check_um_per_px(um_per_px, "um_per_px")
    table = read_table(files["counts"])
    centers = _positions(table, files["counts"])
    fresh = ad.AnnData(X=table.X, obs=table.obs.copy(), var=table.var.copy())
    fresh.var_names_make_unique()
    patient, diameter = metadata.get("patient"), metadata.get("spot_diameter")
    if isinstance(patient, (str, int)) and patient != "":
        fresh.obs["patient"] = str(patient)
    return assemble(
        sample_id,
        _open_image(files["image"]),
        centers,
        fresh,
        um_per_px=um_per_px,
        # Unknown for samples that were binned from single molecules.
        spot_diameter_um=diameter if is_positive(diameter) else _VISIUM_SPOT_UM,
        scale_factors=None,
    )


def _download(sample_id: str) -> Path:
    try:
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(
                DATASET,
                repo_type="dataset",
                allow_patterns=[
                    f"st/{sample_id}.h5ad",
                    f"wsis/{sample_id}.tif",
                    f"metadata/{sample_id}.json",
                ],
            )
        )
    except Exception as error:
        msg = (
            f"HEST sample {sample_id!r} could not be fetched from "
            f"https://huggingface.co/datasets/{DATASET} ({type(error).__name__}): accept its terms there "
            "and log in with `hf auth login`, or pass path=... of a local copy"
        )
        raise InputValueError(msg) from error


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; anything else is an InputValueError that names it."""
    with reading(path, "JSON"):
        metadata: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(metadata, dict):
        msg = f"{path} must hold a JSON object, found {type(metadata).__name__}"
        raise InputValueError(msg)
    return metadata


def is_positive(value: object) -> TypeGuard[float]:
    """Whether a value of JSON is a positive finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and value > 0


def read_table(path: Path) -> ad.AnnData:
    """Read a table whose spots have unique names; anything else is an InputValueError."""
    with open_h5(path, "h5ad"):
        table = ad.read_h5ad(path)
    if not table.obs_names.is_unique:
        repeated = table.obs_names[table.obs_names.duplicated()]
        msg = f"{path}: {len(repeated)} spots are repeated (first: {', '.join(repeated[:3])})"
        raise InputValueError(msg)
    return table


def _positions(table: ad.AnnData, path: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return spot centres, x (column) then y (row) in full-resolution pixels, row by row of the table."""
    if "spatial" not in table.obsm:
        msg = f"{path} has no obsm['spatial']; it has {list(table.obsm)}"
        raise InputKeyError(msg)
    centers = np.asarray(table.obsm["spatial"], dtype=np.float64)
    if centers.shape != (table.n_obs, 2) or not np.isfinite(centers).all():
        msg = f"{path}: obsm['spatial'] must be finite [n_obs, 2], found {centers.shape}"
        raise InputValueError(msg)
    return centers


def _open_image(path: Path) -> Any:
    """Open the finest level of a tiled TIFF, its first page, as a lazy array ``[3, y, x]``."""
    import tifffile

    with reading(path, "TIFF"):
        # Stays open: the pixels are read from it.
        page = tifffile.TiffFile(path).pages.first
        store, orientation = page.aszarr(), orientation_of(page)
    if orientation != 1:
        msg = (
            f"{path} is stored on its side (orientation tag), so that positions in its pixels may be "
            "meant either way; save it upright, without the tag"
        )
        raise InputValueError(msg)
    return lazy_rgb(store, path, page.extrasamples[:1])
