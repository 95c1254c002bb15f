"""Cross-validation: any method, leak-free folds, baselines and references beside it."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from joblib import Parallel, delayed

from rankbygene._arguments import checked
from rankbygene._parent import die_with_parent
from rankbygene.base._record import PACKAGES
from rankbygene.base._setup import each_sdata, recall_setup
from rankbygene.base.spots._seen import slides_seen_as_images, transductive
from rankbygene.data import Normalization, SpatialSetup, resolve_slides
from rankbygene.errors import InputTypeError, InputValueError
from rankbygene.model._fit import with_precision
from rankbygene.nn import build_backbone
from rankbygene.nn._images_seen import images_seen_by, joined
from rankbygene.pp import check_panel
from rankbygene.tl.cross_validation._data import (
    ImageSettings,
    TileFeatures,
    panel_of,
    sides,
)
from rankbygene.tl.cross_validation._folds import (
    Fold,
    check_folding,
    check_pixels,
    make_folds,
)
from rankbygene.tl.cross_validation._identity import is_file_name, library_versions, tell
from rankbygene.tl.cross_validation._measure import Measure
from rankbygene.tl.cross_validation._methods import (
    BASELINES,
    MethodLike,
    ModelMethod,
    as_method,
    baseline,
    check_shared,
    encoders_of,
)
from rankbygene.tl.cross_validation._protocol import Method, check_predictions, widest_tile
from rankbygene.tl.cross_validation._result import CrossValidation
from rankbygene.tl.cross_validation._scoring import REFERENCES, assemble
from rankbygene.tl.cross_validation._store import UNTOLD, FoldStore, Outcome
from rankbygene.tl.cross_validation._study import Study, told_file

if TYPE_CHECKING:
    from rankbygene.base._inference import AnyPrecision
    from rankbygene.base._setup import SpatialDatas
    from rankbygene.pp import PanelMethod
    from rankbygene.tl.cross_validation._folds import Leak

__all__ = ["cross_validate"]


@checked
def cross_validate(
    sdatas: SpatialDatas,
    method: MethodLike | Mapping[str, MethodLike] = "rankbygene",
    *,
    groups: str = "patient",
    n_splits: int | None = None,
    allow_leaks: Sequence[Leak] = (),
    baselines: Sequence[str] = BASELINES,
    references: Sequence[str] = REFERENCES,
    genes: int | Sequence[str] = 250,
    panel_method: PanelMethod = "most_expressed",
    normalization: Normalization | None = None,
    backbone: str | torch.nn.Module = "resnet18",
    pretrained: bool = True,
    weights: str | Path | None = None,
    tile_um: float | None = None,
    tile_px: int | None = None,
    max_epochs: int | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    train_kwargs: Mapping[str, Any] | None = None,
    precision: AnyPrecision | None = None,
    seeds: Sequence[int] = (0,),
    store: str | Path | None = None,
    only_folds: Sequence[str | int] | None = None,
    n_jobs: int = 1,
) -> CrossValidation:
    """Judge methods on slides they have not seen, with baselines beside every score.

    Whatever is fitted (panel, scaling, model, early stopping) sees the training side of a fold
    only. The held-out side reaches a method without its counts.

    Parameters
    ----------
    sdatas
        One SpatialData object, or a list or dict ``{slide: object}``. Objects that need more than
        the defaults are set up before with ``Model.setup_spatialdata``.
    method
        The name of a model or baseline; a :class:`ModelMethod` with settings of its own; a
        scikit-learn regressor, fitted on the features of the encoder before training; a
        :class:`NestedSelection` or :class:`EnsembleMethod` of several; or a function that takes :class:`TrainingData` and returns a function from :class:`TestData` to
        ``[n_spots, n_genes]``. A mapping ``{name: method}`` judges several.
    groups
        What is kept together: ``"patient"`` (as set up, or the column ``patient``), ``"slide"``,
        another column of ``obs`` with one value per slide, ``"block"`` (compact parts of each slide
        with a buffer) or ``"spot"``.
    n_splits
        Number of folds. By default each group is held out once; 4 for blocks.
    allow_leaks
        Leaks to accept by name; they are written under the result. ``"patient"``: slides of one
        patient on both sides. ``"window"``: tiles and smoothing windows across blocks or spots.
    baselines
        ``"mean"``: each gene's training mean. ``"ridge"``: on colour and texture statistics.
        ``"backbone_ridge"``: on the encoder as it is before training. ``"hest_ridge"``: the same
        with the settings of HEST-Bench. ``"mlp"``: a perceptron instead. ``"supervised"``: the same
        encoder trained end to end on standardised expression by squared error, eight orientations at
        test time, after ST-Net :cite:p:`he2020stnet`. ``"retrieval"``: mean of the training spots
        nearest in a joint space learnt by contrast alone, after BLEEP :cite:p:`xie2023bleep`.
    references
        Not predictions, for orientation. ``"neighbours"``: the mean measured around each spot.
        ``"noise ceiling"``: what a perfect prediction would reach against these counts.
    genes, panel_method
        Panel, or how many genes to choose on the training side of each fold.
    normalization
        How counts become the scale of training and scores.
    backbone, pretrained, weights, tile_um, tile_px
        Image encoder and tiles, as in :class:`rankbygene.model.RankByGene`, for all methods.
    max_epochs, model_kwargs, train_kwargs
        For all trained methods, also the baselines among them (of ``plan_kwargs`` these take the
        learning rates only).
    precision
        Of all trainings, as in :meth:`rankbygene.model.RankByGene.train`; by default ``"auto"``.
        Predictions and features of encoders are computed in float32.
    seeds
        Each seed repeats every fold.
    store
        Folder that keeps every finished fold. A call with the same settings goes on where the
        last one stopped. Slides, folds, weights and methods are told by what they hold, not by their names:
        what differs is refused, and what cannot be told (such as a file that a method holds open) is computed
        again with a warning.
    only_folds
        Names or numbers of folds to compute, so that an array of jobs can share the work through
        ``store``. The result then holds these folds only.
    n_jobs
        Processes, each with as many threads as this one (``torch.set_num_threads``), so that the
        numbers do not depend on it. Objects in memory are copied to every process; those read from
        a zarr store are not.

    Returns
    -------
    Scores, predictions and provenance.

    Raises
    ------
    InputTypeError, InputKeyError, InputValueError
        The input cannot be used, the folds would leak, or ``store`` belongs to another study.

    Examples
    --------
    >>> slides = rbg.datasets.synthetic(4, n_patients=4)
    >>> result = rbg.tl.cross_validate(slides, backbone="test_resnet", pretrained=False)
    >>> result.summary["pearson"]
    """
    each_sdata(sdatas)
    shared_train = with_precision(train_kwargs, precision) | (
        {} if max_epochs is None else {"max_epochs": max_epochs}
    )
    shared_model = dict(model_kwargs or {})
    judged = _named(method)
    if not judged:
        msg = "no method given; pass at least one, such as method='rankbygene'"
        raise InputValueError(msg)
    shared_model, shared_train = check_shared(shared_model, shared_train)
    methods = {name: as_method(value, shared_model, shared_train) for name, value in judged.items()}
    for name in baselines:
        if name not in methods:
            methods[name] = baseline(name, shared_model, shared_train)
    _check_names(methods, references, seeds)
    check_folding(groups, n_splits)
    if store is not None:
        FoldStore.check(store)
    study = _study(
        sdatas,
        methods.values(),
        groups=groups,
        n_splits=n_splits,
        allow_leaks=tuple(allow_leaks),
        only_folds=only_folds,
        genes=genes,
        panel_method=panel_method,
        normalization=normalization or Normalization(),
        image=lambda: _image_settings(backbone, pretrained, weights, tile_um, tile_px),
    )
    chosen = _chosen_folds(study.folds, only_folds)
    images_seen = _images_seen(study, methods.values())
    folder = None if store is None else FoldStore(store, study.fingerprint())
    # Told before anything runs, as methods may change what they hold.
    settings = {} if store is None else {name: _told(value) for name, value in methods.items()}
    units = [(seed, study.folds[fold]) for seed in seeds for fold in chosen]
    threads = torch.get_num_threads()
    if n_jobs == 1:
        outcomes = [_run(study, fold, seed, methods, folder, settings) for seed, fold in units]
    else:
        outcomes = Parallel(n_jobs=n_jobs)(
            delayed(_run_in_worker)(
                os.getpid(), threads, study, fold, seed, methods, folder, settings
            )
            for seed, fold in units
        )
    provenance = {
        **study.describe(),
        "folds": [study.folds[fold].describe() for fold in chosen],
        "seeds": list(seeds),
        "images_seen": images_seen,
        "methods": {name: _settings(value) for name, value in methods.items()},
        "threads": threads,
        "versions": {name: version(name) for name in PACKAGES},
    }
    return assemble(
        study,
        {(seed, fold.name): found for (seed, fold), found in zip(units, outcomes, strict=True)},
        methods=tuple(judged),
        baselines=tuple(name for name in methods if name not in judged),
        references=tuple(references),
        provenance=provenance,
    )


def _study(
    sdatas: SpatialDatas,
    methods: Iterable[Method],
    *,
    groups: str,
    n_splits: int | None,
    allow_leaks: tuple[Leak, ...],
    only_folds: Sequence[str | int] | None,
    genes: int | Sequence[str],
    panel_method: PanelMethod,
    normalization: Normalization,
    image: Callable[[], ImageSettings],
) -> Study:
    """Check data and folds, and only then ask for the encoder's settings, which may load weights."""
    frames = resolve_slides(sdatas, lambda item: recall_setup(item, default=SpatialSetup()))
    if not isinstance(genes, int):
        check_panel(genes, frames.values())
    fold = partial(
        make_folds,
        frames,
        groups,
        n_splits,
        allow_leaks=allow_leaks,
        normalization=normalization,
    )
    by_slide = groups not in ("block", "spot")
    folds = fold(tile_um=0.0) if by_slide else []
    if by_slide:
        _chosen_folds({found.name: found for found in folds}, only_folds)
    settings = image()
    width = max((widest_tile(method, settings) for method in methods), default=settings.tile_um)
    if not by_slide:
        folds = fold(tile_um=width)
    elif "window" not in allow_leaks:
        check_pixels(frames, folds, width)
    return Study(
        frames,
        {found.name: found for found in folds},
        TileFeatures(settings),
        genes,
        panel_method,
        normalization,
        settings,
        groups,
        allow_leaks,
        width,
    )


def _images_seen(study: Study, methods: Iterable[Method]) -> list[str]:
    """Name the slides whose images an encoder was trained on without expression, and warn of them."""
    known: dict[str, list[str]] = {}
    for method in methods:
        for encoder in encoders_of(method, study.image):
            known = joined(known, images_seen_by(*encoder))
    slides = slides_seen_as_images(known, study.frames)
    if slides:
        warnings.warn(transductive(slides), UserWarning, stacklevel=4)
    return slides


def _image_settings(
    backbone: str | torch.nn.Module,
    pretrained: bool,
    weights: str | Path | None,
    tile_um: float | None,
    tile_px: int | None,
) -> ImageSettings:
    if tile_um is None or tile_px is None:
        _, spec = build_backbone(backbone, pretrained=pretrained, weights=weights, tile_px=tile_px)
        tile_um, tile_px = tile_um or spec.tile_um, tile_px or spec.tile_px
    return ImageSettings(backbone, pretrained, weights, tile_um, tile_px)


def _named(method: MethodLike | Mapping[str, MethodLike]) -> dict[str, MethodLike]:
    if isinstance(method, Mapping):
        return dict(method)
    if isinstance(method, str):
        return {method: method}
    if isinstance(method, ModelMethod):
        return {method.method: method}
    return {getattr(method, "__name__", type(method).__name__): method}


def _check_names(
    methods: Mapping[str, Method], references: Sequence[str], seeds: Sequence[int]
) -> None:
    unknown = [name for name in references if name not in REFERENCES]
    if unknown:
        msg = f"references {unknown} are not known; choose from {', '.join(map(repr, REFERENCES))}"
        raise InputValueError(msg)
    taken = sorted(set(methods) & set(REFERENCES))
    if taken:
        msg = f"a method cannot be called {taken}, the name of a reference"
        raise InputValueError(msg)
    odd = [name for name in methods if not isinstance(name, str) or not name.strip() or "/" in name]
    if odd:
        msg = f"methods are named by text without '/', which files cannot hold; found {odd[0]!r}"
        raise InputValueError(msg)
    if not seeds or len(set(seeds)) < len(seeds):
        msg = f"seeds must be different numbers, at least one; found {list(seeds)}"
        raise InputValueError(msg)


def _chosen_folds(folds: Mapping[str, Fold], only: Sequence[str | int] | None) -> list[str]:
    names = list(folds)
    if only is None:
        return names
    if isinstance(only, str | int):
        msg = f"only_folds is a list of names or numbers of folds; found {only!r}"
        raise InputTypeError(msg)
    chosen: list[str] = []
    for fold in only:
        if isinstance(fold, int) and str(fold) in names and names.index(str(fold)) != fold:
            msg = (
                f"fold {fold} is the name of one fold and the number of another; pass the name as text "
                f"({str(fold)!r}), or n_splits={len(names)}, which names folds by their numbers"
            )
            raise InputValueError(msg)
        if fold in names:
            chosen.append(str(fold))
        elif isinstance(fold, int) and 0 <= fold < len(names):
            chosen.append(names[fold])
        else:
            msg = f"there is no fold {fold!r}; the folds are {names}, or 0 to {len(names) - 1}"
            raise InputValueError(msg)
    if not chosen or len(set(chosen)) < len(chosen):
        msg = f"only_folds must name different folds, at least one of {names}; found {list(only)}"
        raise InputValueError(msg)
    return chosen


def _run_in_worker(parent: int, threads: int, *arguments: Any) -> dict[str, Outcome]:
    """Run in a worker process with the threads of its parent, on whose number sums depend.

    It ends with its parent, also where that is killed.
    """
    die_with_parent(parent)
    torch.set_num_threads(threads)
    return _run(*arguments)


def _run(
    study: Study,
    fold: Fold,
    seed: int,
    methods: Mapping[str, Method],
    store: FoldStore | None,
    settings: Mapping[str, str],
) -> dict[str, Outcome]:
    """Train and predict with every method on one fold; what the store has is not repeated."""
    done: dict[str, Outcome | None] = dict.fromkeys(methods)
    if store is not None:
        n_spots = sum(map(len, fold.test.values()))
        for name in methods:
            done[name] = store.load(
                name, fold.name, seed, settings[name], n_spots=n_spots, genes=study.genes
            )
    if all(done.values()):
        return {name: outcome for name, outcome in done.items() if outcome is not None}
    genes = panel_of(study.frames, fold, study.genes, study.panel_method)
    outcomes: dict[str, Outcome] = {}
    for name, method in methods.items():
        known = done[name]
        if known is not None:
            outcomes[name] = known
            continue
        # Copies of its own, so that no method finds what another one changed.
        train, test = sides(
            study.frames,
            fold,
            study.tiles,
            genes=genes,
            normalization=study.normalization,
            image=study.image,
            seed=seed,
        )
        with Measure() as used:
            predictor = method(train)
            if not callable(predictor):
                msg = f"method {name!r} gave {type(predictor).__name__}; a function of TestData is needed"
                raise InputTypeError(msg)
            predicted = predictor(test)
        outcomes[name] = Outcome(
            check_predictions(name, predicted, test, genes),
            genes,
            used.seconds,
            used.peak_memory_mb,
            str(getattr(predictor, "note", "")),
        )
        if store is not None:
            store.save(name, fold.name, seed, settings[name], outcomes[name])
    return outcomes


def _told(method: Method) -> str:
    """Tell a method by settings, code, weights and versions, the same in every session."""
    told, untold = tell(method)
    parts = {"settings": _settings(method), "contents": told, "versions": library_versions()}
    return json.dumps({**parts, UNTOLD: untold}, sort_keys=True)


def _settings(method: Any) -> Any:
    """Describe a method in plain values, the same in every session."""
    if is_dataclass(method) and not isinstance(method, type):
        parts = {key: _plain(value) for key, value in asdict(method).items()}
        return {"type": type(method).__name__, **parts}
    return getattr(method, "__qualname__", type(method).__name__)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str | Path) and is_file_name(value):
        return told_file(value)
    if isinstance(value, str | Path) and Path(value).is_absolute():
        return Path(value).name
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, torch.nn.Module):
        return type(value).__name__
    return " ".join(repr(value).split())
