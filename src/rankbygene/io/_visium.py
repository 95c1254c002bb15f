"""10x Visium, through spatialdata-io."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rankbygene._arguments import checked
from rankbygene.errors import InputValueError
from rankbygene.io._assemble import element_name

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = ["read_visium"]


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
        A file is missing; it is named.
    """
    from spatialdata_io import visium

    folder = Path(path)
    needed = [folder / counts_file, folder / "spatial" / "scalefactors_json.json"]
    needed += [Path(fullres_image_file)] if fullres_image_file is not None else []
    missing = [str(file) for file in needed if not file.exists()]
    if not list((folder / "spatial").glob("tissue_positions*")):
        missing.append(str(folder / "spatial" / "tissue_positions.csv"))
    if missing:
        msg = f"not a Space Ranger folder: {', '.join(missing)} missing"
        raise InputValueError(msg)
    sdata: SpatialData = visium(
        folder,
        dataset_id=dataset_id or element_name(folder.resolve().name),
        counts_file=counts_file,
        fullres_image_file=None if fullres_image_file is None else Path(fullres_image_file),
        var_names_make_unique=True,
    )
    return sdata
