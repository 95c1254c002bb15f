"""RankByGene on SpatialData."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Unpack

import torch

from rankbygene._arguments import checked, extending
from rankbygene._renamed import renamed
from rankbygene.base._last_good import good_state_kept
from rankbygene.base.spots._model import SpotModel
from rankbygene.base.spots._options import SpotOptions, own_options
from rankbygene.methods.rankbygene._afterwards import add_frozen_head, add_statistics
from rankbygene.methods.rankbygene._head import GIVEN, fit_head
from rankbygene.methods.rankbygene._module import RankByGeneModule
from rankbygene.methods.rankbygene._plan import RankByGenePlan
from rankbygene.methods.rankbygene._released import check_takes_released, load_released_checkpoint

if TYPE_CHECKING:
    from rankbygene.base._setup import SpatialDatas
    from rankbygene.data import ExpressionBank


class RankByGene(SpotModel):
    """Gene-guided histology representations by cross-modal ranking consistency.

    A student and a teacher image encoder and a gene encoder are trained together: image and gene
    representations of a spot are drawn together (contrast), similar spots by expression must be
    similar by image, in the same order (ranking consistency), and the student must agree with its
    own moving average (distillation) :cite:p:`huang2024rankbygene`. The teacher represents and
    predicts.

    Parameters
    ----------
    head
        How expression is predicted. ``"joint"``: a linear head on standardised genes, trained
        together with the encoders. ``"frozen"``: the paper's perceptron on the finished
        teacher's features.
    n_latent
        Width of the space shared by images and genes. By default the backbone's feature width.
    tta
        Orientations over which representation and prediction are averaged: 8 (all rotations
        and reflections) or 1.
    statistics
        Average the predicted expression with a ridge regression on colour and texture statistics
        of the tile, fitted on the training spots. It helps most where the encoder starts from
        random weights and slides are few.
    context_um
        Further, usually larger, widths in micrometres: tiles of the same centre that the encoder sees
        one by one. Their features are joined, so that a spot is represented with its surroundings.

    Examples
    --------
    >>> import rankbygene as rbg
    >>> slides = rbg.datasets.synthetic(n_slides=3)
    >>> rbg.model.RankByGene.setup_spatialdata(slides, patient_key="patient")
    >>> model = rbg.model.RankByGene(slides, backbone="resnet18", pretrained=False)
    >>> model.train(max_epochs=20)
    >>> model.annotate()
    """

    method: ClassVar[str] = "rankbygene"
    _plan_class = RankByGenePlan
    _settings_of = {"head_kwargs": (fit_head, GIVEN)}
    module: RankByGeneModule

    @own_options
    @renamed(views="tta")
    def __init__(
        self,
        sdata: SpatialDatas,
        *,
        head: Literal["joint", "frozen"] = "joint",
        n_latent: int | None = None,
        tta: Literal[1, 8] = 8,
        statistics: bool = False,
        context_um: Sequence[float] = (),
        **options: Unpack[SpotOptions],
    ) -> None:
        super().__init__(sdata, **options)

    def _build_module(self, network: torch.nn.Module) -> RankByGeneModule:
        return RankByGeneModule(
            network,
            n_features=self.backbone.n_features,
            n_latent=self.module_kwargs["n_latent"],
            head=self.module_kwargs["head"],
            statistics=self.module_kwargs["statistics"],
            n_widths=len(self.tile_widths),
            **self._panel_and_pixels,
        )

    @extending(SpotModel.train)
    def train(
        self,
        max_epochs: int | None = None,
        *,
        head_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Train the encoders, and the prediction head with or after them.

        Parameters
        ----------
        head_kwargs
            With ``head="frozen"``: arguments of :func:`rankbygene.train.fit_head`.
        """
        self._head_settings = self._settings("head_kwargs", head_kwargs)
        super().train(max_epochs, **options)

    @checked
    def load_released(
        self, path: str | Path, *, head_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """Take the encoders from a checkpoint of the authors' code, and fit the prediction head.

        Parameters
        ----------
        path
            The checkpoint. The model must have been made with ``head="frozen"``, its encoder
            (``backbone="uni", pretrained=False``) and its gene panel in its order.
        head_kwargs
            Arguments of :func:`rankbygene.train.fit_head`.

        Raises
        ------
        InputValueError
            The checkpoint does not fit, or the model has another head.
        """
        check_takes_released(self.module.head, self.fine_tuning.get("fine_tune", "full"))
        self._head_settings = self._settings("head_kwargs", head_kwargs)
        with good_state_kept(self, partial(self._finish, self._expression_bank())):
            load_released_checkpoint(path, self.module)
            self.is_trained_ = True
            self.training_params = {"released_checkpoint": Path(path).name}

    def _after_training(self, bank: ExpressionBank) -> None:
        if self.module.head == "frozen":
            add_frozen_head(self, bank, self._head_settings)
        if self.module.statistics is not None:
            add_statistics(self, self.module.statistics, bank)

    def _apply(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features, expression = self.module.represent(images, tta=self.module_kwargs["tta"])
        return {"latent": features, "expression": expression}
