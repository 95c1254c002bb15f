"""Synthetic tissue: image and counts made from the same latent programs, with the truth kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from rankbygene._arguments import checked
from rankbygene.datasets._fields import RandomFields
from rankbygene.datasets._tissue import PROGRAMS, Slide, draw_tissue
from rankbygene.errors import InputValueError
from rankbygene.io._assemble import assemble

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from spatialdata import SpatialData

PITCH_UM, SPOT_UM = 100.0, 55.0
_MARGIN_UM = 150.0
_LENGTH_UM = 260.0
_TARGET_SUM = 1e4


@dataclass(frozen=True, eq=False)
class Genes:
    """How genes follow the programs."""

    base: NDArray[np.float64]  # [n_genes] log rate
    loadings: NDArray[np.float64]  # [n_programs + 1, n_genes]; the last program is not in the image
    image_driven: NDArray[np.bool_]  # [n_genes]


@checked
def synthetic(
    n_slides: int = 2,
    n_spots: int = 400,
    n_genes: int = 100,
    seed: int = 0,
    *,
    n_patients: int | None = None,
    layout: Literal["hex", "grid"] = "hex",
    um_per_px: float = 1.0,
    noise: float = 1.0,
    depth: float = 40.0,
    scale_factors: Sequence[int] | None = (2,),
) -> list[SpatialData]:
    """Make slides of H&E-like tissue with spatial counts and known truth.

    Five programs vary smoothly over the tissue of a patient: cellularity, size of nuclei, spindle
    shape, glands and fibres. They shape the texture of the image and the rates of the genes
    marked ``image_driven``; a sixth program, of which the image shows nothing, drives half of the
    others, and the rest only vary by chance. The local mean colour follows no gene: it carries
    the stain of the slide and two nuisance fields. Slides of a patient are serial sections, a
    little displaced; patients and slides differ in stain and by gene-wise effects.

    Parameters
    ----------
    n_slides, n_spots, n_genes
        Number of slides, of spots on each and of genes.
    seed
        Same seed, same slides.
    n_patients
        Slides are dealt out to so many patients in turn; by default two slides each.
    layout
        ``"hex"``: a Visium-like lattice; ``"grid"``: a square one. Spots are 55 um wide and 100 um
        apart.
    um_per_px
        Micrometres per pixel of the image.
    noise
        0 leaves only the sampling noise of the counts; 1 adds overdispersion and effects of slides
        and patients as in real data.
    depth
        Mean number of counts per gene and spot.
    scale_factors
        Pyramid of the image; None makes a single-scale image.

    Returns
    -------
    One object per slide, ``slide_0`` and so on, each with image ``<slide>_image``, circles
    ``<slide>_spots`` and ``table``: counts in ``X``; ``obs`` with ``patient``, ``slide``,
    ``array_row``, ``array_col``; ``obsm["truth_programs"]`` ``[n_spots, 6]``;
    ``layers["truth"]``, the expected log1p of counts per 10,000; ``var["image_driven"]``.
    Coordinate systems: ``global`` in pixels and ``um``.

    Examples
    --------
    >>> import rankbygene as rbg
    >>> slides = rbg.datasets.synthetic(n_slides=2, n_spots=100, n_genes=50)
    >>> slides[0]["table"].shape
    (100, 50)
    """
    if min(n_slides, n_spots, n_genes) < 1 or um_per_px <= 0 or noise < 0:
        msg = (
            "n_slides, n_spots and n_genes must be at least 1, um_per_px positive and noise not "
            f"negative; found {n_slides}, {n_spots}, {n_genes}, {um_per_px}, {noise}"
        )
        raise InputValueError(msg)
    n_patients = n_patients or -(-n_slides // 2)
    genes = draw_genes(n_genes, np.random.default_rng([seed, 0]))
    return [
        draw_slide(
            number,
            number % n_patients,
            n_patients,
            genes,
            n_spots=n_spots,
            layout=layout,
            um_per_px=um_per_px,
            noise=noise,
            depth=depth,
            scale_factors=scale_factors,
            seed=seed,
        )
        for number in range(n_slides)
    ]


def draw_slide(
    number: int,
    patient: int,
    n_patients: int,
    genes: Genes,
    *,
    n_spots: int,
    layout: str,
    um_per_px: float,
    noise: float,
    depth: float,
    scale_factors: Sequence[int] | None,
    seed: int,
    level: NDArray[np.float64] | float = 0.0,
) -> SpatialData:
    """Make slide ``number`` as :func:`synthetic` does; ``level`` raises the patient's programs."""
    rng = np.random.default_rng([seed, 1, patient])
    programs = RandomFields.draw(len(PROGRAMS) + 1, _LENGTH_UM, rng)
    patient_effect = 0.25 * noise * rng.normal(size=genes.base.size)
    rng = np.random.default_rng([seed, 2, number])
    slide = Slide(
        programs=programs,
        nuisance=RandomFields.draw(3, _LENGTH_UM, rng),
        shift=RandomFields.draw(2, 2 * _LENGTH_UM, rng),
        shift_um=40.0 * (number >= n_patients),
        stain=rng.normal(0, 9.0, 3),
        level=level,
    )
    effect = patient_effect + 0.15 * noise * rng.normal(size=genes.base.size)
    name = f"slide_{number}"
    index, centers = _lattice(n_spots, layout)
    # No two slides lie on the array in quite the same way.
    centers = centers + rng.uniform(0, 40, 2)
    table = _count_table(slide, genes, centers, effect, noise, depth, rng)
    table.obs["patient"] = pd.Categorical([f"patient_{patient}"] * n_spots)
    table.obs["slide"] = pd.Categorical([name] * n_spots)
    table.obs["array_row"], table.obs["array_col"] = index.T
    shape = tuple(int(size) for size in np.ceil((centers.max(0) + _MARGIN_UM) / um_per_px)[::-1])
    image = draw_tissue(slide, (shape[0], shape[1]), um_per_px, centers, rng)
    return assemble(
        name,
        image,
        centers / um_per_px,
        table,
        um_per_px=um_per_px,
        spot_diameter_um=SPOT_UM,
        scale_factors=scale_factors,
    )


def draw_genes(n_genes: int, rng: np.random.Generator) -> Genes:
    n_programs = len(PROGRAMS)
    kind = np.arange(n_genes) % 10
    image_driven = kind < 6
    loadings = np.zeros((n_programs + 1, n_genes))
    for gene in np.flatnonzero(image_driven):
        first, second = rng.permutation(n_programs)[:2]
        loadings[first, gene] = rng.choice([-1, 1]) * rng.uniform(1.2, 2.2)
        loadings[second, gene] = rng.normal(0, 0.5)
    hidden = (kind == 6) | (kind == 7)
    loadings[n_programs, hidden] = rng.choice([-1, 1], hidden.sum()) * rng.uniform(
        1.2, 2.2, hidden.sum()
    )
    return Genes(rng.normal(0, 1.0, n_genes), loadings, image_driven)


def _lattice(n_spots: int, layout: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Indices and centres (micrometres) of the ``n_spots`` places nearest the middle."""
    side = int(np.ceil(np.sqrt(n_spots))) + 4
    row, column = (axis.ravel() for axis in np.indices((2 * side, 2 * side)))
    if layout == "hex":
        column = 2 * column + row % 2
        centers = np.stack([column * PITCH_UM / 2, row * PITCH_UM * np.sqrt(3) / 2], 1)
    elif layout == "grid":
        centers = np.stack([column * PITCH_UM, row * PITCH_UM], 1)
    else:
        msg = f"layout={layout!r} is not known; choose 'hex' or 'grid'"
        raise InputValueError(msg)
    distance = np.linalg.norm(centers - np.median(centers, axis=0), axis=1)
    kept = np.sort(np.argsort(distance, kind="stable")[:n_spots])
    index = np.stack([row, column], 1)[kept]
    # An even shift keeps the parity by which a hexagonal lattice is known.
    index = index - index.min(0) // 2 * 2
    return index, centers[kept] - centers[kept].min(0) + _MARGIN_UM


def _count_table(
    slide: Slide,
    genes: Genes,
    centers: NDArray[np.float64],
    effect: NDArray[np.float64],
    noise: float,
    depth: float,
    rng: np.random.Generator,
) -> ad.AnnData:
    programs = slide.program_values(centers)
    rate = genes.base + effect + 2 * (programs - 0.5) @ genes.loadings
    share = np.exp(rate)
    share /= share.sum(1, keepdims=True)
    n_spots, n_genes = share.shape
    library = depth * n_genes * np.exp(rng.normal(-0.06, 0.35, (n_spots, 1)))
    mean = library * share
    if noise > 0:
        # Gamma-distributed rates make the counts negative binomial.
        mean = mean * rng.gamma(8.0 / noise, noise / 8.0, mean.shape)
    counts = rng.poisson(mean).astype(np.float32)
    counts[counts.sum(1) == 0, 0] = 1
    return ad.AnnData(
        X=csr_matrix(counts),
        obs=pd.DataFrame(index=[f"spot_{i}" for i in range(n_spots)]),
        var=pd.DataFrame(
            {"image_driven": genes.image_driven}, index=[f"gene_{i}" for i in range(n_genes)]
        ),
        obsm={"truth_programs": programs.astype(np.float32)},
        layers={"truth": np.log1p(_TARGET_SUM * share).astype(np.float32)},
    )
