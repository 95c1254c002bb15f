"""How well the tissue mask finds the tissue that was measured.

Run with ``RANKBYGENE_DATA=folder python benchmarks/tissue.py``. Spots with counts lie on tissue by definition, so
that the share of them whose tile is kept should be 1; the share of the image that is kept tells whether that was
bought with glass. ``--save FOLDER`` writes the outlines of the pieces as pictures, which should be looked at.
The mask of the first release, the difference of the strongest and the weakest channel alone, stands beside.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree
from spatialdata.models import Image2DModel

import rankbygene as rbg
from rankbygene.data import level_array, resolve
from rankbygene.pp._mask import share_of_windows, tissue_mask, tissue_pieces

TILE_UM, MIN_TISSUE = 112.0, 0.25


@dataclass(frozen=True, eq=False)
class Section:
    """An image, spots in its pixels, and how many micrometres these are."""

    name: str
    image: Any
    centers: NDArray[np.float64]
    um_per_px: float


def sections(data: Path) -> Iterator[Section]:
    """Read every section at hand, one at a time."""
    yield from _from_sdatas(rbg.datasets.her2st(data / "her2st"))
    yield from _from_sdatas(rbg.datasets.olfactory_bulb(data / "mob_stahl", array="stahl"))
    yield from _from_sdatas(rbg.datasets.olfactory_bulb(data / "stutility_mob"))
    for name in ("A1", "A2"):
        spots = pd.read_csv(data / "her2st_patient_a" / f"{name}_spots.csv")
        centers = spots[["pixel_x", "pixel_y"]].to_numpy(float)
        yield _of_picture(name, data / "her2st_patient_a" / f"{name}.png", centers, 200.0)
    folder = data / "crc16_visium" / "spatial"
    places = pd.read_csv(folder / "tissue_positions_list.csv", header=None)
    factors = json.loads((folder / "scalefactors_json.json").read_text(encoding="utf-8"))
    measured = places.loc[places[1] == 1, [5, 4]].to_numpy(float)
    centers = measured * factors["tissue_hires_scalef"]
    yield _of_picture("crc16", folder / "tissue_hires_image.png", centers, 100.0)


def _from_sdatas(slides: dict[str, Any]) -> Iterator[Section]:
    for name, sdata in slides.items():
        (frame,) = resolve(sdata)
        # Their common system counts the pixels of the image.
        yield Section(name, sdata.images[frame.image_key], frame.centers, frame.um_per_unit)


def _of_picture(name: str, path: Path, centers: NDArray[np.float64], pitch_um: float) -> Section:
    pixels = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)
    image = Image2DModel.parse(pixels, dims=("c", "y", "x"), c_coords=["r", "g", "b"])
    pitch = float(np.median(cKDTree(centers).query(centers, k=2)[0][:, 1]))
    return Section(name, image, centers, pitch_um / pitch)


def chroma_mask(image: Any, side: float) -> NDArray[np.bool_]:
    """The mask that was: Otsu's threshold, at most 30, on the difference of the channels."""
    pixels = level_array(image, 0)
    step = max(1, int(side / 16))
    sampled = pixels[:, step // 2 :: step, step // 2 :: step].compute()
    chroma = sampled.max(axis=0) - sampled.min(axis=0)
    counts = np.bincount(chroma.ravel(), minlength=256).astype(float)
    below, sums = counts.cumsum()[:-1], (counts * np.arange(256)).cumsum()
    above = counts.sum() - below
    gap = (sums[-1] - sums[:-1]) / np.maximum(above, 1) - sums[:-1] / np.maximum(below, 1)
    gap[(below == 0) | (above == 0)] = 0
    split = int(np.argmax(below * above * gap**2))
    mask: NDArray[np.bool_] = chroma >= (min(split + 1, 30) if gap[split] >= 10 else 30)
    return mask


def judge(section: Section, folder: Path | None) -> dict[str, Any]:
    """Measure both masks on one section."""
    side = TILE_UM / section.um_per_px
    shape = level_array(section.image, 0).shape[1:]
    corners = (section.centers - side / 2).T

    def covered(mask: NDArray[np.bool_]) -> float:
        share = share_of_windows(mask, *corners, side, (shape[0], shape[1]))
        return float(np.mean(share >= MIN_TISSUE))

    before = chroma_mask(section.image, side)
    mask = tissue_mask(section.image, side)
    sample_um2 = section.um_per_px**2 * shape[0] * shape[1] / mask.size
    pieces = tissue_pieces(mask, min_samples=TILE_UM**2 / sample_um2)
    if folder is not None:
        _draw(section, pieces, folder)
    return {
        "section": section.name,
        "spots": len(section.centers),
        "covered before": covered(before),
        "covered": covered(pieces > 0),
        "by the largest": covered(pieces == 1),
        "area before": float(before.mean()),
        "area": float((pieces > 0).mean()),
        "pieces": int(pieces.max()),
    }


def _draw(section: Section, pieces: NDArray[np.int32], folder: Path) -> None:
    """Write the image with the outlines of its pieces, and glass darkened."""
    pixels = level_array(section.image, 0)
    step = max(1, max(pixels.shape[1:]) // 1200)
    picture = pixels[:, ::step, ::step].compute().transpose(1, 2, 0).copy()
    size = (picture.shape[1], picture.shape[0])
    numbers = np.asarray(
        Image.fromarray(pieces.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
    )
    edge = ndimage.maximum_filter(numbers, 5) != ndimage.minimum_filter(numbers, 5)
    picture[numbers == 0] = (picture[numbers == 0] * 0.6).astype(np.uint8)
    picture[edge] = (0, 200, 0)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(folder / f"{section.name}.png")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("RANKBYGENE_DATA"))
    parser.add_argument("--save", type=Path, help="folder for pictures of the masks")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("pass --data, or set RANKBYGENE_DATA")
    table = pd.DataFrame([judge(one, arguments.save) for one in sections(Path(arguments.data))])
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
