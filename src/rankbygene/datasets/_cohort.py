"""Synthetic patients: slides whose tissue decides their class and their survival."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import anndata as ad
import numpy as np
import pandas as pd
from spatialdata import SpatialData
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale

from rankbygene._arguments import checked, checked_fields
from rankbygene.data import ArrayBag, Bag, BagSetup
from rankbygene.data.bags._bags import declare_features
from rankbygene.datasets._fields import RandomFields
from rankbygene.datasets._synthetic import draw_genes, draw_slide
from rankbygene.datasets._tissue import PROGRAMS
from rankbygene.errors import InputValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SyntheticCohort", "synthetic_cohort"]

CohortKind = Literal["tables", "bags", "images"]

_TILE_UM = 100.0
_PROGRAM = "glands"
_FEATURE_KEY = "X_features"


@checked_fields
@dataclass(frozen=True, eq=False)
class SyntheticCohort:
    """Slides of patients with outcomes and known truth.

    Parameters
    ----------
    slides
        ``{slide: SpatialData or bag}``.
    clinical
        One row per slide: ``patient``, ``label`` (``"low"`` or ``"high"``), ``time`` and ``event``;
        ``burden`` is the truth behind them, with mean 0 and variance 1 over patients.
    causal
        Which tiles show the program, bool ``[n_tiles]`` per slide.
    """

    slides: dict[str, SpatialData | Bag]
    clinical: pd.DataFrame
    causal: dict[str, NDArray[np.bool_]]


@checked
def synthetic_cohort(
    n_patients: int = 100,
    *,
    kind: CohortKind = "tables",
    n_tiles: int = 150,
    n_features: int = 32,
    n_genes: int = 60,
    max_slides: int = 2,
    seed: int = 0,
) -> SyntheticCohort:
    """Make slides of patients whose class and hazard follow the amount of a tissue program.

    Every patient has a burden. It sets the share of tiles that show the program, about 2 to 25 in a
    hundred; they lie together. The class is ``"high"`` where the burden, with a little noise, is
    above its mean. The hazard doubles with every quarter of a standard deviation, and about four in
    ten patients are censored. Beside the program tiles are of four kinds of tissue, in shares that
    say nothing, and every slide is shifted as by its stain.

    Parameters
    ----------
    n_patients
        Number of patients.
    kind
        ``"tables"``: SpatialData with features in ``.obsm["X_features"]``, which models of slides are
        told of, and the truth in ``.obs["causal"]``. ``"bags"``: :class:`~rankbygene.data.ArrayBag`. ``"images"``: H&E-like
        tissue with counts, as of :func:`synthetic`, in which the burden raises the frequency of
        glands; features are the user's to compute.
    n_tiles
        Mean number of tiles of a slide, which vary by a third; for images the number of spots.
    n_features
        Width of the features.
    n_genes
        For images, the number of genes.
    max_slides
        Patients have 1 to so many slides.
    seed
        Same seed, same cohort.

    Returns
    -------
    Slides, clinical table and truth.

    Raises
    ------
    InputValueError
        A number is too small or ``kind`` is not known.

    Examples
    --------
    >>> import rankbygene as rbg
    >>> cohort = rbg.datasets.synthetic_cohort(n_patients=20)
    >>> cohort.clinical.columns.tolist()
    ['patient', 'label', 'time', 'event', 'burden']
    """
    if kind not in get_args(CohortKind):
        msg = f"kind={kind!r} is not known; choose {', '.join(map(repr, get_args(CohortKind)))}"
        raise InputValueError(msg)
    if min(n_patients, max_slides) < 1 or n_tiles < 8 or n_features < 8:
        msg = (
            "n_patients and max_slides must be at least 1, n_tiles and n_features at least 8; found "
            f"{n_patients}, {max_slides}, {n_tiles}, {n_features}"
        )
        raise InputValueError(msg)
    rng = np.random.default_rng([seed, 0])
    patients = _draw_patients(n_patients, rng)
    counts = rng.integers(1, max_slides + 1, n_patients)
    # First slides first: later ones of a patient are further sections of the same tissue.
    owners = [p for turn in range(max_slides) for p in np.flatnonzero(counts > turn).tolist()]
    clinical = patients.iloc[owners].set_axis([f"slide_{i}" for i in range(len(owners))], axis=0)
    burden = clinical["burden"].to_numpy()
    slides: dict[str, SpatialData | Bag] = {}
    causal: dict[str, NDArray[np.bool_]] = {}
    if kind == "images":
        genes = draw_genes(n_genes, np.random.default_rng([seed, 1]))
        for number, (name, patient) in enumerate(zip(clinical.index, owners, strict=True)):
            level = np.zeros(len(PROGRAMS) + 1)
            level[PROGRAMS.index(_PROGRAM)] = 0.8 * burden[number] - 0.8
            sdata = draw_slide(
                number, patient, n_patients, genes, n_spots=n_tiles, layout="hex", um_per_px=2.0,
                noise=1.0, depth=40.0, scale_factors=None, seed=seed, level=level,
            )  # fmt: skip
            activity = sdata["table"].obsm["truth_programs"][:, PROGRAMS.index(_PROGRAM)]
            causal[name] = np.asarray(activity > 0.7)
            sdata["table"].obs["causal"] = causal[name]
            slides[name] = sdata
        return SyntheticCohort(slides, clinical, causal)
    profiles = _draw_profiles(n_features, np.random.default_rng([seed, 1]))
    for number, name in enumerate(clinical.index):
        rng = np.random.default_rng([seed, 2, number])
        coords = _grid(int(n_tiles * rng.uniform(0.67, 1.33)), rng)
        features, causal[name] = _draw_tiles(coords, burden[number], profiles, rng)
        bag = ArrayBag(name, features, coords)
        slides[name] = bag if kind == "bags" else _as_spatialdata(bag, causal[name])
    return SyntheticCohort(slides, clinical, causal)


def _draw_patients(n_patients: int, rng: np.random.Generator) -> pd.DataFrame:
    burden = rng.normal(size=n_patients)
    burden = (burden - burden.mean()) / max(burden.std(), 1e-9)
    high = burden + rng.normal(0, 0.15, n_patients) > 0
    event_time = rng.exponential(36 * np.exp(-3.0 * burden))
    censored_at = rng.uniform(6, 120, n_patients)
    # Months are recorded to a tenth, so that times tie as they do in practice.
    time = np.ceil(10 * np.minimum(event_time, censored_at)) / 10
    return pd.DataFrame(
        {
            "patient": [f"patient_{i}" for i in range(n_patients)],
            "label": np.where(high, "high", "low"),
            "time": time,
            "event": event_time <= censored_at,
            "burden": burden,
        }
    )


def _draw_profiles(n_features: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Mean features of four kinds of tissue, and what the program adds, ``[5, n_features]``."""
    profiles = rng.normal(size=(5, n_features))
    profiles[:4] *= 1.5 * np.sqrt(32 / n_features)
    profiles[4] *= 8.0 / np.linalg.norm(profiles[4])
    return np.asarray(profiles)


def _grid(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Centres in micrometres of ``n`` tiles of a compact piece of tissue."""
    side = int(np.ceil(np.sqrt(n))) + 2
    y, x = np.indices((side, side))
    centers = np.stack([x.ravel(), y.ravel()], 1) * _TILE_UM
    distance = np.linalg.norm(centers - centers.mean(0) + rng.uniform(-50, 50, 2), axis=1)
    return np.asarray(centers[np.sort(np.argsort(distance, kind="stable")[:n])])


def _draw_tiles(
    coords: NDArray[np.float64],
    burden: float,
    profiles: NDArray[np.float64],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    fields = RandomFields.draw(5, 4 * _TILE_UM, rng).at(coords)
    kind = (fields[:, :4] + rng.normal(0, 0.7, 4)).argmax(1)
    share = 0.02 + 0.23 / (1 + np.exp(-1.5 * burden))
    causal = np.zeros(len(coords), bool)
    causal[np.argsort(-fields[:, 4])[: max(1, round(share * len(coords)))]] = True
    shift = rng.normal(0, 0.25, profiles.shape[1])
    noise = rng.normal(size=(len(coords), profiles.shape[1]))
    features = profiles[kind] + causal[:, None] * profiles[4] + shift + noise
    return features.astype(np.float32), causal


def _as_spatialdata(bag: ArrayBag, causal: NDArray[np.bool_]) -> SpatialData:
    systems = {"global": Identity(), "um": Scale([1.0, 1.0], axes=("x", "y"))}
    names = [f"tile_{i}" for i in range(bag.n_tiles)]
    region = f"{bag.name}_tiles"
    table = ad.AnnData(
        obs=pd.DataFrame(
            {"region": pd.Categorical([region] * bag.n_tiles), "tile_id": names, "causal": causal},
            index=names,
        ),
        obsm={_FEATURE_KEY: bag.features, "spatial": bag.coords},
    )
    parsed = TableModel.parse(table, region=region, region_key="region", instance_key="tile_id")
    shapes = ShapesModel.parse(
        bag.coords, geometry=0, radius=_TILE_UM / 2, index=pd.Index(names), transformations=systems
    )
    sdata = SpatialData(shapes={region: shapes}, tables={"table": parsed})
    declare_features(sdata, BagSetup(feature_key=_FEATURE_KEY))
    return sdata
