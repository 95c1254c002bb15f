"""ST-Net on SpatialData."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Unpack

import torch

from rankbygene.base.spots._model import SpotModel
from rankbygene.base.spots._options import SpotOptions, own_options
from rankbygene.methods.stnet._module import STNetModule
from rankbygene.methods.stnet._plan import STNetPlan

if TYPE_CHECKING:
    from rankbygene.base._setup import SpatialDatas


class STNet(SpotModel):
    """Expression from a tile by regression: an image encoder, trained by the squared error.

    The field's first and simplest supervised method :cite:p:`he2020stnet`, and the control beside which
    every other loss has to show its worth. The paper's encoder is ``backbone="densenet121"``.

    Parameters
    ----------
    tta
        Orientations over which representation and prediction are averaged: 8 (all rotations
        and reflections) or 1.
    context_um
        Further widths in micrometres: tiles of the same centre, whose features are joined.

    Examples
    --------
    >>> import rankbygene as rbg
    >>> slides = rbg.datasets.synthetic(n_slides=3)
    >>> rbg.model.STNet.setup_spatialdata(slides, patient_key="patient")
    >>> model = rbg.model.STNet(slides, backbone="resnet18", pretrained=False)
    >>> model.train(max_epochs=20)
    >>> model.annotate()
    """

    method: ClassVar[str] = "stnet"
    gives = frozenset({"latent", "expression"})
    _plan_class = STNetPlan
    module: STNetModule

    @own_options
    def __init__(
        self,
        sdata: SpatialDatas,
        *,
        tta: Literal[1, 8] = 8,
        context_um: Sequence[float] = (),
        **options: Unpack[SpotOptions],
    ) -> None:
        super().__init__(sdata, **options)

    def _build_module(self, network: torch.nn.Module) -> STNetModule:
        return STNetModule(
            network,
            n_features=self.backbone.n_features * len(self.tile_widths),
            **self._panel_and_pixels,
        )

    def _apply(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.module.averaged_features(images, tta=self.module_kwargs["tta"])
        return {"latent": features, "expression": self.module.predict_from_features(features)}
