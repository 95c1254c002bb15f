"""HEST-Bench: how well the frozen features of an image encoder predict expression."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import torch

from rankbygene._arguments import checked
from rankbygene.base._inference import (
    Precision,
    choose_device,
    choose_precision,
    run_over_tiles,
)
from rankbygene.base._random import forked_rng
from rankbygene.errors import BackboneError, InputValueError
from rankbygene.io._hest_bench import PATCH_PX, BenchTask, patch_blocks, read_bench
from rankbygene.nn import build_backbone, color_statistics, normalize_pixels
from rankbygene.tl.cross_validation._regressors import N_COMPONENTS
from rankbygene.tl.hest._folds import ENCODER, BenchBaseline, Features, score_task
from rankbygene.tl.hest._result import HestBench, summarise_bench

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.io._hest_bench import BenchSample
    from rankbygene.nn import BackboneSpec

TASKS = ("IDC", "PRAD", "PAAD", "SKCM", "COAD", "READ", "CCRCC", "LUNG", "LYMPH_IDC")
PATCH_UM = 112.0
PACKAGES = ("rankbygene", "torch", "timm", "scikit-learn", "anndata")

BenchVariant = Literal["corrected", "released"]
PixelStats: TypeAlias = tuple[Sequence[float], Sequence[float]]


@checked
def hest_bench(
    path: str | Path,
    encoder: str | torch.nn.Module,
    *,
    tasks: str | Sequence[str] | None = None,
    pretrained: bool = True,
    weights: str | Path | None = None,
    pixel_stats: PixelStats | None = None,
    baselines: Sequence[BenchBaseline] = ("mean", "ridge"),
    variant: BenchVariant = "corrected",
    seed: int = 1,
    batch_size: int = 128,
    device: str | torch.device | None = None,
    precision: Precision | None = None,
) -> HestBench:
    """Score an image encoder by the protocol of HEST-Bench.

    The encoder is frozen. In each fold its features of the training patches are standardised,
    reduced to 256 principal components and regressed on the expression of 50 genes; the Pearson
    correlation of each gene over all test spots of the fold is averaged over genes, then folds, then
    tasks.

    To the letter follow: the genes, folds and patches (112 um at 0.5 um per pixel) of the published
    folder; ``log1p`` of the counts without normalisation to a common total; matching of patches
    and spots by barcode; ``StandardScaler``, ``PCA(256)`` with seed 1 and
    ``Ridge(solver="lsqr", alpha=100 / (256 * 50), fit_intercept=False)`` in float32, fitted on
    the training spots of the fold; the test slides of a fold pooled; no tuning.

    Corrected, and put back by ``variant="released"``: a gene that is constant in the test spots has no
    correlation and is left out of the mean, with a warning, where the released code makes the whole
    average NaN; a patch whose barcode the table lacks is left out, with a warning, where the released
    code stops. Neither case is known in the published data.

    In both variants a part that is missing, a sample on both sides of a fold, patches of
    another size and values that are no counts are errors; an encoder with fewer than 256
    features, or a fold with fewer training spots, gets as many components as there can be.

    Parameters
    ----------
    path
        The downloaded folder, with one folder per task: ``splits/train_<k>.csv`` and
        ``test_<k>.csv``, ``var_50genes.json``, ``patches/<sample>.h5``, ``adata/<sample>.h5ad``.
    encoder
        Name or module, as in :func:`rankbygene.nn.build_backbone`. It sees patches of 224 px.
    tasks
        Names of folders; the nine of the benchmark by default. Averages over other tasks cannot be
        compared with published ones.
    pretrained, weights
        As in :func:`rankbygene.nn.build_backbone`.
    pixel_stats
        Mean and standard deviation of the channels on the scale [0, 1], where they are not those of
        the encoder's model card or ``pretrained_cfg``. A module without one gets ImageNet's.
    baselines
        ``"mean"``: the training mean of each gene, whose correlation is undefined (NaN); its
        errors are in ``per_gene``. ``"ridge"``: ridge regression on colour statistics of the patch.
    variant
        See above.
    seed
        Of the principal components, and of the weights of an encoder that is not pretrained.
    batch_size
        Patches that are read and encoded at once; bounds the memory.
    device
        By default a GPU where there is one.
    precision
        Of the encoder; by default bfloat16 autocast on a GPU that computes it natively, else float32.

    Returns
    -------
    Scores per task and per gene, with what they were computed from.

    Raises
    ------
    InputValueError, InputKeyError
        The folder is incomplete or damaged, or an option is not known. All that is wrong
        with the tables is told before the first patch is encoded.
    BackboneError
        The encoder or its weights cannot be had, or its features are not finite.

    References
    ----------
    :cite:p:`jaume2024hest`; settings of the repository ``mahmoodlab/HEST`` as of September 2025.
    """
    names = _task_names(tasks)
    place = choose_device(device)
    bench = read_bench(Path(path), names, drop_unmatched=variant == "corrected")
    _warn_unmatched(bench)
    mode = choose_precision("auto" if precision is None else precision, place)
    with forked_rng(seed):
        network, spec = build_backbone(
            encoder, pretrained=pretrained, weights=weights, tile_px=PATCH_PX
        )
    mean, std = pixel_stats or (spec.mean, spec.std)
    forward = _forward(
        network.to(place).eval(), _channels(mean, place), _channels(std, place), baselines
    )

    def describe(sample: BenchSample) -> Features:
        values = run_over_tiles(
            forward,
            patch_blocks(sample, batch_size),
            len(sample.rows),
            device=place,
            batch_size=batch_size,
            precision=mode,
        )
        _check_finite(values[ENCODER], sample)
        return values

    tables = [score_task(task, describe, baselines, seed) for task in bench.values()]
    per_gene = pd.concat(tables, ignore_index=True)
    if variant == "corrected":
        _warn_undefined(per_gene)
    record = _provenance(bench, spec, variant, seed) | {"device": place.type, "precision": mode}
    record["encoder"] |= {"mean": list(mean), "std": list(std)}
    summary = summarise_bench(per_gene, skipna=variant == "corrected")
    return HestBench(summary=summary, per_gene=per_gene, provenance=record)


def _task_names(tasks: str | Sequence[str] | None) -> tuple[str, ...]:
    names = TASKS if tasks is None else (tasks,) if isinstance(tasks, str) else tuple(tasks)
    if not names or len(set(names)) < len(names):
        msg = f"tasks={tasks!r} must name one or more different folders, such as {TASKS[:2]}"
        raise InputValueError(msg)
    return names


def _channels(values: Sequence[float], device: torch.device) -> torch.Tensor:
    tensor = torch.tensor(values, dtype=torch.float32, device=device)
    if tensor.shape != (3,):
        msg = f"pixel_stats must hold three means and three standard deviations, found {values}"
        raise InputValueError(msg)
    return tensor.view(3, 1, 1)


def _forward(
    network: torch.nn.Module, mean: torch.Tensor, std: torch.Tensor, baselines: Sequence[str]
) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    """Describe uint8 patches in each way that is asked for, so that each is read once."""

    def forward(images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = {ENCODER: network(normalize_pixels(images, mean, std))}
        if "ridge" in baselines:
            features["ridge"] = color_statistics(images)
        return features

    return forward


def _check_finite(features: NDArray[np.float32], sample: BenchSample) -> None:
    broken = int((~np.isfinite(features)).any(axis=1).sum())
    if broken:
        msg = (
            f"the encoder gives NaN or infinite features for {broken:,} of {len(features):,} patches "
            f"of {sample.patches}; pass precision='32-true', or other weights"
        )
        raise BackboneError(msg)


def _warn_unmatched(bench: Mapping[str, BenchTask]) -> None:
    for task in bench.values():
        for name, sample in task.samples.items():
            n_lost = sample.n_patches - len(sample.rows)
            if n_lost:
                text = (
                    f"{n_lost:,} of {sample.n_patches:,} patches of {task.name}/{name} have no spot in "
                    "its table and are left out; the released benchmark would stop here"
                )
                warnings.warn(text, UserWarning, stacklevel=3)


def _warn_undefined(per_gene: pd.DataFrame) -> None:
    scores = per_gene[(per_gene["method"] == ENCODER) & per_gene["pearson"].isna()]
    for (task, fold), genes in scores.groupby(["task", "fold"], sort=False)["gene"]:
        text = (
            f"{len(genes)} genes of {task}, fold {fold}, are constant and left out of its mean "
            f"({', '.join(genes[:5])}); the released benchmark would give NaN"
        )
        warnings.warn(text, UserWarning, stacklevel=3)


def _provenance(
    bench: Mapping[str, BenchTask], spec: BackboneSpec, variant: str, seed: int
) -> dict[str, Any]:
    return {
        "benchmark": "HEST-Bench",
        "complete": set(bench) == set(TASKS),
        "variant": variant,
        # The size of the patches, not that of the tiles the encoder was trained on.
        "encoder": asdict(spec) | {"tile_um": PATCH_UM, "tile_px": PATCH_PX},
        "head": {"n_components": N_COMPONENTS, "seed": seed},
        "tasks": {name: _task_record(task) for name, task in bench.items()},
        "versions": {name: version(name) for name in PACKAGES},
    }


def _task_record(task: BenchTask) -> dict[str, Any]:
    return {
        "n_genes": len(task.genes),
        "folds": [{"train": [*fold.train], "test": [*fold.test]} for fold in task.folds],
        "patches": {
            name: {"used": len(sample.rows), "stored": sample.n_patches}
            for name, sample in task.samples.items()
        },
    }
