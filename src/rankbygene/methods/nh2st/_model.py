"""NH2ST on SpatialData."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import numpy as np
import torch

from rankbygene._arguments import extending
from rankbygene._renamed import renamed
from rankbygene.base.spots._model import SpotModel
from rankbygene.base.spots._options import SpotOptions, own_options
from rankbygene.base.spots._plan import SpotPlan
from rankbygene.data import NeighbourhoodDataModule, local_places, nearest_spots, spot_spacing
from rankbygene.errors import InputValueError
from rankbygene.methods.nh2st._module import NH2STModule
from rankbygene.methods.nh2st._plan import NH2STPlan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rankbygene.base._setup import SpatialDatas
    from rankbygene.data import ExpressionBank, SpotFrame
    from rankbygene.data.batches._datamodule import Tiles
    from rankbygene.methods.nh2st._module import Activation, ContrastOn, DecodeFrom, Pooling, Tokens

# Neighbourhoods that are combined together.
_AT_ONCE = 1024


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
    _settings_of = {
        "plan_kwargs": (NH2STPlan, ("module", "seed")),
    }
    _drawn_together: ClassVar[int] = 64
    module: NH2STModule
    _nearest: tuple[SpotFrame, NDArray[np.intp]] | None = None

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
        if n_neighbourhood < 1 or k < 1:
            msg = (
                f"n_neighbourhood={n_neighbourhood} and k={k} must be at least 1: a neighbourhood "
                "holds the spot itself, a hyperedge a partner"
            )
            raise InputValueError(msg)
        super().__init__(sdata, **options)

    def _build_module(self, network: torch.nn.Module) -> NH2STModule:
        settings = dict(self.module_kwargs)
        self._n, self._tta = settings.pop("n_neighbourhood"), settings.pop("tta")
        backbone: Any = network
        return NH2STModule(
            network,
            n_features=self.backbone.n_features,
            n_genes=len(self.genes),
            map_shape=backbone.map_shape(self.tile_px),
            pixel_mean=self.backbone.mean,
            pixel_std=self.backbone.std,
            **settings,
        )

    def _build_plan(self, settings: dict[str, Any]) -> NH2STPlan:
        return NH2STPlan(self.module, seed=self.seed, **settings)

    def _build_datamodule(
        self, inputs: Tiles, bank: ExpressionBank, plan: SpotPlan, **batches: Any
    ) -> NeighbourhoodDataModule:
        looks_around = self.module.decode_from != "query" or plan.weights["neighbour"] > 0
        if not looks_around:
            batches["group_size"] = 1
        return NeighbourhoodDataModule(
            inputs,
            bank,
            self.training_split,
            [frame.centers_um for frame in self.training_frames.values()],
            n=self._n if looks_around else 1,
            seed=self.seed,
            drop_last=True,
            **batches,
        )

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

    def _after_training(self, bank: ExpressionBank) -> None:
        spacings = [spot_spacing(frame.centers_um) for frame in self.frames.values()]
        self.training_params["spacing_um"] = float(np.nanmean(spacings))

    def _apply(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.module.image_features(images, tta=self._tta)
        latent = self.module.query(features)
        if self.module.decode_from == "query":
            return {"latent": latent, "expression": self.module.predict_from_features(features)}
        return {"latent": latent, "features": features}

    def _apply_genes(self, expression: torch.Tensor, measured: torch.Tensor) -> torch.Tensor:
        return self.module.gene_features(expression, measured)

    def _rows_needed(self, frame: SpotFrame, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        if self.module.decode_from == "query":
            return rows
        return local_places(self._neighbours_of(frame)[rows])[0]

    def _combine(
        self,
        values: dict[str, NDArray[np.float32]],
        frame: SpotFrame,
        rows: NDArray[np.intp],
        needed: NDArray[np.intp],
    ) -> dict[str, NDArray[np.float32]]:
        """Predict from the features of a slide's tiles, each encoded once."""
        if self.module.decode_from == "query":
            return values
        self._warn_of_spacing(frame)
        _, places = local_places(self._neighbours_of(frame)[rows])
        expression = np.empty((len(rows), len(self.genes)), np.float32)
        for start in range(0, len(rows), _AT_ONCE):
            block = slice(start, start + _AT_ONCE)
            own, inside = local_places(places[block])
            features = torch.from_numpy(values["features"][own]).to(self.device)
            neighbours = torch.from_numpy(inside).to(self.device)
            with torch.inference_mode():
                predicted = self.module.predict_from_features(features, neighbours)
            expression[block] = predicted.cpu().numpy()
        return {"latent": values["latent"][places[:, 0]], "expression": expression}

    def _neighbours_of(self, frame: SpotFrame) -> NDArray[np.intp]:
        """Nearest spots of a slide, kept for the last one, which large slides ask for many times."""
        if self._nearest is None or self._nearest[0] is not frame:
            self._nearest = frame, nearest_spots(frame.centers, self._n)
        return self._nearest[1]

    def _warn_of_spacing(self, frame: SpotFrame) -> None:
        """Say when neighbours are nearer or farther than those that the model learned from."""
        found, learned = spot_spacing(frame.centers_um), self.training_params["spacing_um"]
        if not (found > 1.5 * learned or learned > 1.5 * found):
            return
        text = (
            f"the spots of slide {frame.slide!r} are {found:.0f} um apart, those of training "
            f"{learned:.0f} um; neighbourhoods of another size shift predictions. Predict at shapes "
            "or with `predict_slide(step_um=...)` at about the spacing of training, or train with "
            "decode_from='query'"
        )
        warnings.warn(text, UserWarning, stacklevel=2)
