"""NH2ST on SpatialData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch

from rankbygene._arguments import extending
from rankbygene._renamed import renamed
from rankbygene.base.spots._context import Alone, Neighbours
from rankbygene.base.spots._model import SpotModel
from rankbygene.base.spots._options import SpotOptions, own_options
from rankbygene.base.spots._plan import SpotPlan
from rankbygene.methods.nh2st._module import NH2STModule
from rankbygene.methods.nh2st._plan import NH2STPlan

if TYPE_CHECKING:
    from rankbygene.base._setup import SpatialDatas
    from rankbygene.base.spots._context import Context
    from rankbygene.base.spots._surroundings import Surroundings
    from rankbygene.methods.nh2st._module import Activation, ContrastOn, DecodeFrom, Pooling, Tokens


class NH2ST(SpotModel):
    """Spatial expression from H&E by contrast at two scales: the spot and its neighbourhood.

    An image encoder and a gene encoder are trained so that image and genes agree for single spots
    and for neighbourhoods, which are represented by convolutions on a hypergraph of similar spots;
    a decoder predicts expression :cite:p:`qu2025nh2st`. To apply it needs images alone.

    Parameters
    ----------
    n_neighbourhood
        Spots of a neighbourhood, the spot itself included: the nearest ones on its slide.
    k
        Partners of a spot in its hyperedge.
    contrast_on, decode_from, tokens, sequential, share_cross_attention, pooling, activation
        What the networks do, see :class:`rankbygene.module.NH2STModule`. With
        ``decode_from="query+neighbours"`` the spacing of spots should be that of training; see
        ``step_um`` of :meth:`predict_slide`.
    standardize, n_latent, n_hidden, n_heads, depth, mlp_ratio, dropout
        Further settings of the networks.
    tta
        Orientations over which the image encoder's features are averaged: 8 (all rotations and
        reflections) or 1.

    Examples
    --------
    >>> import rankbygene as rbg
    >>> slides = rbg.datasets.synthetic(n_slides=3)
    >>> rbg.model.NH2ST.setup_spatialdata(slides, patient_key="patient")
    >>> model = rbg.model.NH2ST(slides, backbone="resnet18", pretrained=False)
    >>> model.train(max_epochs=20)
    >>> model.annotate()
    """

    method: ClassVar[str] = "nh2st"
    _plan_class = NH2STPlan
    _drawn_together: ClassVar[int] = 64
    module: NH2STModule

    @own_options
    @renamed(views="tta")
    def __init__(
        self,
        sdata: SpatialDatas,
        *,
        n_neighbourhood: int = 9,
        k: int = 3,
        contrast_on: ContrastOn = "pre",
        decode_from: DecodeFrom = "query+neighbours",
        tokens: Tokens = "map",
        sequential: bool = False,
        share_cross_attention: bool = False,
        pooling: Pooling = "mean",
        activation: Activation | None = None,
        standardize: bool = True,
        n_latent: int = 512,
        n_hidden: int = 1024,
        n_heads: int = 8,
        depth: int = 1,
        mlp_ratio: float = 1.0,
        dropout: float = 0.1,
        tta: int = 8,
        **options: Unpack[SpotOptions],
    ) -> None:
        super().__init__(sdata, **options)

    def _build_module(self, network: torch.nn.Module) -> NH2STModule:
        settings = dict(self.module_kwargs)
        settings.pop("n_neighbourhood")
        self._tta = settings.pop("tta")
        backbone: Any = network
        return NH2STModule(
            network,
            n_features=self.backbone.n_features,
            map_shape=backbone.map_shape(self.tile_px),
            **self._panel_and_pixels,
            **settings,
        )

    def _context(self, plan: SpotPlan | None) -> Context:
        looks_around = self.module_kwargs["decode_from"] != "query"
        if plan is None:
            return Neighbours(self.module_kwargs["n_neighbourhood"]) if looks_around else Alone()
        looks_around = looks_around or plan.weights["neighbour"] > 0
        return Neighbours(self.module_kwargs["n_neighbourhood"] if looks_around else 1)

    @extending(SpotModel.train)
    @renamed(patch_size="group_size")
    def train(
        self, max_epochs: int | None = None, *, group_size: int | None = None, **options: Any
    ) -> None:
        """Train encoders, neighbourhoods and decoder together.

        Parameters
        ----------
        group_size
            Spots of a batch that lie side by side and so share the tiles around them, see
            :class:`rankbygene.data.NeighbourhoodDataModule`. By default 32, or ``batch_size`` where
            that is less; 1 where no loss and no prediction looks at neighbours.
        """
        self._group_size = group_size
        super().train(max_epochs, **options)

    def _batch_settings(self, batch_size: int | str) -> dict[str, Any]:
        largest = 32 if isinstance(batch_size, str) else min(32, batch_size)
        return {"group_size": self._group_size or largest}

    def _apply(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.module.image_features(images, tta=self._tta)
        latent = self.module.query(features)
        if self.module.decode_from == "query":
            return {"latent": latent, "expression": self.module.predict_from_features(features)}
        return {"latent": latent, "features": features}

    def _combine(self, spots: Surroundings) -> dict[str, torch.Tensor]:
        """Predict from the features of a slide's tiles, each encoded once."""
        predicted = self.module.predict_from_features(spots.values["features"], spots.neighbours)
        return {"latent": spots.own("latent"), "expression": predicted}
