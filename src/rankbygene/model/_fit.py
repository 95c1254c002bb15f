"""The one-liner: set up, train, annotate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankbygene._arguments import check_settings, checked
from rankbygene._keys import Keys
from rankbygene.base._folder import read_record
from rankbygene.base._inference import AnyPrecision, check_precision
from rankbygene.base._runner import check_train_kwargs
from rankbygene.base.spots._annotate import check_keys_free, check_layer_fits, group_by_table
from rankbygene.errors import InputValueError
from rankbygene.methods._registry import class_of, known_class

if TYPE_CHECKING:
    import torch

    from rankbygene.base._setup import SpatialDatas
    from rankbygene.base.spots._model import SpotModel


@checked
def fit(
    sdata: SpatialDatas,
    *,
    method: str = "rankbygene",
    genes: int | Sequence[str] = 250,
    backbone: str | torch.nn.Module = "resnet18",
    pretrained: bool = True,
    max_epochs: int | None = None,
    table_key: str = "table",
    image_key: str | Mapping[str, str] | None = None,
    layer: str | None = None,
    coordinate_system: str | None = None,
    patient_key: str | None = None,
    um_per_px: float | Mapping[str, float] | None = None,
    key_added: str | None = None,
    precision: AnyPrecision | None = None,
    seed: int | None = 0,
    model_kwargs: Mapping[str, Any] | None = None,
    train_kwargs: Mapping[str, Any] | None = None,
) -> SpotModel:
    """Train a model on SpatialData objects and annotate their tables.

    Parameters
    ----------
    sdata
        One object, or a list or dict ``{slide: object}``.
    method
        Which model, by its name: ``"rankbygene"`` is :class:`rankbygene.model.RankByGene`, ``"nh2st"``
        :class:`rankbygene.model.NH2ST`, ``"stnet"`` :class:`rankbygene.model.STNet`, ``"bleep"``
        :class:`rankbygene.model.BLEEP`; others may have been registered, see :func:`register`.
    genes, backbone, pretrained, seed
        As in :class:`rankbygene.model.RankByGene`.
    max_epochs
        By default chosen from the number of training spots.
    table_key, image_key, layer, coordinate_system, patient_key, um_per_px
        As in :meth:`rankbygene.model.RankByGene.setup_spatialdata`.
    key_added
        Prefix of what is written; by default the method's name.
    precision
        Of training, as in :meth:`rankbygene.model.RankByGene.train`; by default ``"auto"``. Results
        are computed in float32 in any case.
    model_kwargs
        Further arguments of the model's class.
    train_kwargs
        Further arguments of its ``train`` method.

    Returns
    -------
    The trained model. Every table now holds its results; see
    :meth:`rankbygene.model.RankByGene.annotate` for the keys.

    Raises
    ------
    InputTypeError, InputKeyError, InputValueError
        The input cannot be used; nothing has been read from the image or written yet.
    """
    cls = class_of(method)
    # What would make a later step fail is refused before anything slow.
    own = ("sdata", "backbone", "pretrained", "genes", "seed")
    model_kwargs = check_settings(cls, model_kwargs, "model_kwargs", owned=own)
    training = with_precision(train_kwargs, precision)
    training = check_train_kwargs(cls, training, owned=("max_epochs",))
    cls.setup_spatialdata(
        sdata,
        table_key=table_key,
        image_key=image_key,
        layer=layer,
        coordinate_system=coordinate_system,
        patient_key=patient_key,
        um_per_px=um_per_px,
    )
    model = cls(
        sdata,
        backbone=backbone,
        pretrained=pretrained,
        genes=genes,
        seed=seed,
        **model_kwargs,
    )
    # What would make the last step fail is refused before the long one.
    check_layer_fits(model.frames)
    for group in group_by_table(model.frames):
        check_keys_free(group[0].table, Keys(key_added or method))
    model.train(max_epochs=max_epochs, **training)
    model.annotate(key_added=key_added)
    return model


def with_precision(train_kwargs: Mapping[str, Any] | None, precision: str | None) -> dict[str, Any]:
    """Settings of a training with the precision that was asked for beside them.

    Raises
    ------
    InputValueError
        They name another one.
    """
    settings = dict(train_kwargs or {})
    if precision is not None and settings.setdefault("precision", precision) != precision:
        msg = (
            f"precision={precision!r} and train_kwargs={{'precision': {settings['precision']!r}}} differ; "
            "pass one of them"
        )
        raise InputValueError(msg)
    check_precision(settings.get("precision", "auto"))
    return settings


@checked
def load(
    dir_path: str | Path,
    sdata: SpatialDatas | None = None,
    *,
    backbone: torch.nn.Module | None = None,
    cache_dir: str | Path | None = None,
) -> SpotModel:
    """Read a saved model of any method.

    Parameters
    ----------
    dir_path, sdata, backbone, cache_dir
        As in :meth:`rankbygene.model.RankByGene.load`.

    Returns
    -------
    The model, of the class that it was saved from.

    Raises
    ------
    InputValueError
        The folder is damaged or made by something else.
    """
    made_by = read_record(Path(dir_path))["class"]
    cls = known_class(made_by)
    if cls is not None:
        return cls.load(dir_path, sdata, backbone=backbone, cache_dir=cache_dir)
    msg = f"{dir_path} holds a {made_by}, which is no method that is known here; update rankbygene, or register its class"
    raise InputValueError(msg)
