"""What every model of spots can be told: said once, for every method."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypedDict, TypeVar

import torch

from rankbygene._arguments import taking

if TYPE_CHECKING:
    from rankbygene.data import Normalization
    from rankbygene.data.splits._split import SplitBy
    from rankbygene.nn import FineTune
    from rankbygene.pp import PanelMethod

__all__ = ["DEFAULTS", "SpotOptions", "own_options"]

P = ParamSpec("P")
M = TypeVar("M")


class SpotOptions(TypedDict, total=False):
    """Options of every model of spots.

    Parameters
    ----------
    sdata
        One SpatialData object, or a list or dict ``{slide: object}``, after
        :meth:`setup_spatialdata`.
    backbone
        Image encoder: a timm name, an ``hf-hub:`` id, a named pathology encoder
        (``rankbygene.nn.PATHOLOGY_BACKBONES``) or a module that maps ``[B, 3, H, W]`` to features, of
        which a copy is trained. See :func:`rankbygene.nn.build_backbone`.
    pretrained
        Load the encoder's published weights. False starts from random weights and works offline.
    weights
        Local file with weights for ``backbone``.
    fine_tune, n_last, lora_kwargs
        Which weights of the encoder training changes: ``"full"``, ``"last_n"`` blocks, ``"lora"``
        additions or ``"none"``, see :func:`rankbygene.nn.set_fine_tuning`. With ``"none"`` every
        tile is encoded once, in its eight orientations, and training the heads on what was kept takes
        seconds on a CPU. Colours are not varied then.
    genes, panel_method
        Names of the genes to learn and predict, or how many to choose on the training spots, among
        those measured on every training slide.
    normalization
        How counts become the training scale.
    tile_um, tile_px
        Width of a tile in micrometres and in pixels after resampling. By default what the
        backbone was trained on (112 um at 224 px where it does not say).
    split_by, validation_size, validation_slides
        What is held out for early stopping and for the per-gene scores. By default whole
        patients where they are known, else slides, else spatial blocks of the only slide.
    max_spots
        Train and validate on about so many spots at most, drawn from all over the slides, where there
        are more. The others are neither cut nor seen; smoothing uses their counts.
    cache_dir
        Folder that keeps the tiles between sessions, see :meth:`rankbygene.data.TileBank.build`. By
        default they are cut anew and held in memory.
    seed
        Repeats a run exactly on a CPU. By default ``scvi.settings.seed``, or 0.
    """

    backbone: str | torch.nn.Module
    pretrained: bool
    weights: str | Path | None
    fine_tune: FineTune
    n_last: int | None
    lora_kwargs: Mapping[str, Any] | None
    genes: int | Sequence[str]
    panel_method: PanelMethod
    normalization: Normalization | None
    tile_um: float | None
    tile_px: int | None
    split_by: SplitBy
    validation_size: float
    validation_slides: Sequence[str] | None
    max_spots: int | None
    cache_dir: str | Path | None
    seed: int | None


DEFAULTS: SpotOptions = {
    "backbone": "resnet18",
    "pretrained": True,
    "weights": None,
    "fine_tune": "full",
    "n_last": None,
    "lora_kwargs": None,
    "genes": 250,
    "panel_method": "most_expressed",
    "normalization": None,
    "tile_um": None,
    "tile_px": None,
    "split_by": "auto",
    "validation_size": 0.2,
    "validation_slides": None,
    "max_spots": None,
    "cache_dir": None,
    "seed": None,
}


def own_options(
    constructor: Callable[Concatenate[M, P], None],
) -> Callable[Concatenate[M, P], None]:
    """Make the constructor of a method, whose ``**options`` are :class:`SpotOptions`.

    Arguments are checked by their annotations. What the method takes beside the common options is
    kept as ``module_kwargs``, with its defaults: it is saved, and there again when a model is
    loaded, before networks are built.
    """
    parameters = inspect.signature(constructor).parameters.values()
    own = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def construct(model: Any, *args: Any, **options: Any) -> None:
        chosen = {name: options.pop(name, default) for name, default in own.items()}
        model.module_kwargs = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in chosen.items()
        }
        constructor(model, *args, **chosen, **options)

    functools.update_wrapper(construct, constructor)
    made: Any = taking(SpotOptions, DEFAULTS)(construct)
    return made  # type: ignore[no-any-return]
