"""An image encoder that has seen the tissue before it sees a count."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rankbygene._arguments import checked, checked_fields
from rankbygene._version import __version__
from rankbygene.base._inference import choose_precision
from rankbygene.base._random import choose_seed, forked_rng
from rankbygene.base._runner import (
    check_before_training,
    check_trainer,
    default_max_epochs,
    run_training,
    training_device,
)
from rankbygene.base.spots._slide import tissue_frame
from rankbygene.data import TileBank, TileDataModule, plan_tiles
from rankbygene.data._fingerprint import fingerprint_image
from rankbygene.data.slides._slides import numbered
from rankbygene.errors import InputKeyError, InputValueError, Problems
from rankbygene.io import atomic_file
from rankbygene.methods.simclr._module import SimCLRModule
from rankbygene.methods.simclr._plan import SimCLRPlan
from rankbygene.nn import build_backbone
from rankbygene.nn._images_seen import RECORD, joined, mark_images_seen
from rankbygene.nn.encoders._weights import save_tensors

if TYPE_CHECKING:
    import lightning.pytorch as pl
    import pandas as pd

    from rankbygene.base._setup import SpatialDatas
    from rankbygene.data import SpotFrame
    from rankbygene.nn import BackboneSpec

_SUFFIX = ".safetensors"
_TILES = "tissue_tiles"  # only inside this file: the user's objects stay as they are


@checked_fields
@dataclass(frozen=True, eq=False)
class PretrainedBackbone:
    """An image encoder trained by :func:`pretrain`.

    Attributes
    ----------
    network
        The encoder alone, evaluating, on the CPU: what :meth:`save` writes. A model takes it as
        ``backbone=`` and trains a copy of it. A named pathology encoder goes by its file, which
        alone keeps its pooling and channel statistics.
    spec
        What the encoder is and expects, and the weights it started from.
    history
        ``train_loss`` per epoch, as of a model.
    params
        Provenance: slides and their tiles, fingerprints of their images, settings, version. Plain
        types only. Models on this encoder name the slides that they are scored on and it has seen.
    """

    network: torch.nn.Module
    spec: BackboneSpec
    history: dict[str, pd.DataFrame]
    params: dict[str, Any]

    @checked
    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the encoder's weights as a file, completely or not at all.

        The file is what ``weights=`` takes, of :func:`rankbygene.nn.build_backbone` and of every
        model, together with the same ``backbone`` and ``tile_px``. ``params`` are in its metadata
        under ``rankbygene``, as JSON.

        Parameters
        ----------
        path
            The file, ending in ``.safetensors``.
        overwrite
            Replace a file of that name.

        Raises
        ------
        InputValueError
            The name ends otherwise.
        OutputExistsError
            The file exists and ``overwrite`` is False.
        """
        if Path(path).suffix != _SUFFIX:
            msg = f"{path} would not be read as safetensors; pass a name that ends in {_SUFFIX!r}"
            raise InputValueError(msg)
        # Copies, because safetensors refuses tensors that share memory.
        tensors = {name: t.contiguous().clone() for name, t in self.network.state_dict().items()}
        with atomic_file(Path(path), overwrite=overwrite) as file:
            save_tensors(tensors, file, {RECORD: json.dumps(self.params)})


class _Trainee:
    """What the runner trains."""

    def __init__(self, module: SimCLRModule, seed: int, training: Mapping[str, Any]) -> None:
        self.module = module
        self.seed = seed
        self.training_params = training
        self.is_trained_ = False
        self.history_: dict[str, pd.DataFrame] | None = None

    def to_device(self, device: str | torch.device) -> None:
        self.module.to(device)


@checked(batch_size={"at_least": 2})
def pretrain(
    sdatas: SpatialDatas,
    backbone: str | torch.nn.Module = "resnet18",
    *,
    pretrained: bool = False,
    weights: str | Path | None = None,
    image_key: str | Mapping[str, str] | None = None,
    um_per_px: float | Mapping[str, float] | None = None,
    tile_um: float | None = None,
    tile_px: int | None = None,
    step_um: float | None = None,
    max_epochs: int | None = None,
    batch_size: int = 256,
    lr: float = 1e-3,
    temperature: float = 0.1,
    crop: tuple[float, float] = (0.3, 1.0),
    cache_dir: str | Path | None = None,
    seed: int | None = 0,
    accelerator: str = "auto",
    devices: int | list[int] | str = "auto",
    precision: str = "auto",
    callbacks: Sequence[pl.Callback] = (),
    **trainer_kwargs: Any,
) -> PretrainedBackbone:
    """Train an image encoder on all tissue of some slides, without expression.

    For a warm start where no published weights are at hand or fit. Two random views of each tile must be found among the views of all tiles of a batch (SimCLR
    :cite:p:`chen2020simclr`). The tiles lie on a grid over the tissue, not at spots, and no table
    is read or needed. Leave out the slides that you will judge on if their images must stay unseen:
    scores on the others say that theirs were seen.

    Parameters
    ----------
    sdatas
        One SpatialData object, or a list or dict ``{slide: object}``. They are not changed.
    backbone, pretrained, weights
        Where to start, see :func:`rankbygene.nn.build_backbone`; of a module a copy is trained.
    image_key
        H&E image, or ``{slide: image}``. May be left out where a slide has one RGB image.
    um_per_px
        Micrometres per pixel of the image's finest level, or ``{slide: value}``; by default as the spots
        on it have it, else as the image tells.
    tile_um, tile_px
        Width of a tile in micrometres and in pixels, best those of the model to come. By default
        what the backbone was trained on (112 um at 224 px where it does not say).
    step_um
        Distance of neighbouring tiles in micrometres; ``tile_um`` by default, so that they touch.
        Half of it gives four times the tiles.
    max_epochs
        By default as many as show about 50,000 tiles, between 10 and 100.
    batch_size
        Tiles per step, over all devices; each is told from all others of its batch.
    lr
        Highest learning rate of AdamW.
    temperature
        Of the loss, see :func:`rankbygene.nn.losses.nt_xent`.
    crop
        Smallest and largest share of a tile's area that a view shows.
    cache_dir
        Folder that keeps the tiles between runs, see :meth:`rankbygene.data.TileBank.build`.
    seed
        Repeats a run exactly on a CPU. None takes ``scvi.settings.seed``, or 0.
    accelerator, devices
        As in Lightning. For several devices pass ``strategy="ddp"`` as well, in a script.
    precision
        ``"auto"``: bfloat16 autocast on a GPU that computes it natively, else float32. Or
        ``"32-true"``, ``"bf16-mixed"`` (about twice as fast on CPUs that compute it natively) or
        ``"16-mixed"``.
    callbacks
        Further Lightning callbacks.
    **trainer_kwargs
        Passed to :class:`scvi.train.Trainer`, such as ``enable_progress_bar``.

    Returns
    -------
    The encoder and its history.

    Raises
    ------
    InputTypeError, InputKeyError, InputValueError
        A slide cannot be tiled, a setting is out of range, or there are fewer tiles than a batch.
    BackboneError
        The encoder or its weights cannot be had.
    TrainingError
        The loss was not finite.

    Examples
    --------
    >>> import rankbygene as rbg
    >>> slides = rbg.datasets.synthetic(n_slides=2)
    >>> warm = rbg.model.pretrain(slides, "resnet18", tile_px=64)  # doctest: +SKIP
    >>> warm.save("warm.safetensors")  # doctest: +SKIP
    >>> rbg.model.RankByGene.setup_spatialdata(slides)
    >>> rbg.model.RankByGene(slides, weights="warm.safetensors", tile_px=64)  # doctest: +SKIP
    """
    check_trainer(
        max_epochs, trainer_kwargs, accelerator=accelerator, devices=devices, precision=precision
    )
    seed = choose_seed(seed)
    with forked_rng(seed):
        network, spec = build_backbone(
            backbone, pretrained=pretrained, weights=weights, tile_px=tile_px
        )
        module = SimCLRModule(
            network, n_features=spec.n_features, pixel_mean=spec.mean, pixel_std=spec.std
        )
    settings: dict[str, Any] = {"lr": lr, "temperature": temperature, "crop": crop}
    plan = SimCLRPlan(module, seed=seed, **settings)
    runner: dict[str, Any] = {
        "accelerator": accelerator,
        "devices": devices,
        "early_stopping": False,
        "monitor": "validation_loss",
        **trainer_kwargs,
    }
    check_before_training(plan, validated=False, **runner)
    tile: dict[str, Any] = {"tile_um": tile_um or spec.tile_um, "tile_px": tile_px or spec.tile_px}
    frames = _frames(sdatas, tile, image_key=image_key, um_per_px=um_per_px, step_um=step_um)
    bank = TileBank.build(frames, **tile, cache_dir=cache_dir)
    precision = choose_precision(precision, training_device(accelerator, devices))
    training = {
        "max_epochs": default_max_epochs(len(bank)) if max_epochs is None else max_epochs,
        "precision": precision,
        "batch_size": batch_size,
        **settings,
    }
    trainee = _Trainee(module, seed, training)
    run_training(
        trainee,
        plan,
        TileDataModule(bank, batch_size=batch_size, seed=seed),
        max_epochs=training["max_epochs"],
        precision=precision,
        early_stopping_patience=1,
        logger=None,
        callbacks=callbacks,
        **runner,
    )
    own = {
        name: fingerprint_image(frame.sdata.images[frame.image_key])
        for name, frame in frames.items()
    }
    images_seen = joined(spec.images_seen, own)
    params = {
        "version": __version__,
        "method": "simclr",
        "backbone": spec.name,
        "starting_weights": spec.weights_hash,
        **tile,
        "step_um": step_um or tile["tile_um"],
        "n_tiles": {name: frame.n_obs for name, frame in frames.items()},
        "images_seen": images_seen,
        "training": training,
        "seed": seed,
    }
    # The projection stays behind, and of the wrapper only the network that a name builds again.
    encoder: torch.nn.Module = network.network.cpu().eval()  # type: ignore[operator, union-attr]
    mark_images_seen(encoder, images_seen)
    return PretrainedBackbone(encoder, spec, trainee.history_ or {}, params)


def _frames(
    sdatas: SpatialDatas,
    tile: Mapping[str, Any],
    *,
    image_key: str | Mapping[str, str] | None,
    um_per_px: float | Mapping[str, float] | None,
    step_um: float | None,
) -> dict[str, SpotFrame]:
    """Cover the tissue of every slide with tiles; what is wrong is reported together."""
    slides, named = numbered(sdatas)
    _check_known("image_key", image_key, slides)
    _check_known("um_per_px", um_per_px, slides)
    problems = Problems()
    frames = {}
    for name, sdata in slides.items():
        place = Problems(f"slide {name!r}" if named or len(slides) > 1 else "")
        with problems.collect():
            with place.collect():
                frame, _ = tissue_frame(
                    sdata,
                    _TILES,
                    image_key=image_key.get(name) if isinstance(image_key, Mapping) else image_key,
                    coordinate_system=None,
                    um_per_px=um_per_px.get(name) if isinstance(um_per_px, Mapping) else um_per_px,
                    tile_um=tile["tile_um"],
                    step_um=step_um,
                )
            place.raise_if_any()
            frames[name] = replace(frame, slide=name)
            plan_tiles(frames[name], **tile)
    problems.raise_if_any()
    return frames


def _check_known(argument: str, given: Any, slides: Mapping[str, object]) -> None:
    unknown = [name for name in given if name not in slides] if isinstance(given, Mapping) else []
    if unknown:
        msg = f"{argument} names slides {unknown} that are not given; there are {list(slides)}"
        raise InputKeyError(msg)
