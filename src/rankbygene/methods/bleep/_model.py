"""BLEEP on SpatialData."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Unpack

import numpy as np
import pandas as pd
import torch

from rankbygene._arguments import checked
from rankbygene.base._inference import BATCH_SIZE
from rankbygene.base.spots._model import SpotModel
from rankbygene.base.spots._options import SpotOptions, own_options
from rankbygene.errors import NotTrainedError
from rankbygene.methods.bleep._bank import ReferenceBank, Weighting
from rankbygene.methods.bleep._module import BLEEPModule
from rankbygene.methods.bleep._plan import BLEEPPlan

if TYPE_CHECKING:
    from rankbygene.base._setup import SpatialDatas
    from rankbygene.data import ExpressionBank


class BLEEP(SpotModel):
    """Expression by retrieval: the mean profile of the training spots that lie nearest to an image.

    Images and profiles are drawn together in one space, with targets softened by how alike the spots
    of a batch are; there is no regression, so that what is predicted never leaves the range of what
    was measured :cite:p:`xie2023bleep`. The profiles are saved with the model.

    Parameters
    ----------
    n_neighbors, weighting
        How many profiles are averaged, and how: ``"mean"``, or ``"softmax"`` of minus the squared
        distances.
    n_latent, dropout
        Width of the shared space; within the projections.
    tta
        Orientations over which an image's features are averaged: 8 or 1.
    context_um
        Further widths in micrometres: tiles of the same centre, whose features are joined.

    Examples
    --------
    >>> import rankbygene as rbg
    >>> slides = rbg.datasets.synthetic(n_slides=3)
    >>> rbg.model.BLEEP.setup_spatialdata(slides, patient_key="patient")
    >>> model = rbg.model.BLEEP(slides, backbone="resnet18", pretrained=False)
    >>> model.train(max_epochs=20)
    >>> model.annotate()
    """

    method: ClassVar[str] = "bleep"
    _plan_class = BLEEPPlan
    module: BLEEPModule
    references: ReferenceBank | None = None

    @own_options
    def __init__(
        self,
        sdata: SpatialDatas,
        *,
        n_neighbors: int = 50,
        weighting: Weighting = "mean",
        n_latent: int = 256,
        dropout: float = 0.1,
        tta: Literal[1, 8] = 8,
        context_um: Sequence[float] = (),
        **options: Unpack[SpotOptions],
    ) -> None:
        self.references = None
        super().__init__(sdata, **options)

    def _build_module(self, network: torch.nn.Module) -> BLEEPModule:
        return BLEEPModule(
            network,
            n_features=self.backbone.n_features * len(self.tile_widths),
            n_latent=self.module_kwargs["n_latent"],
            dropout=self.module_kwargs["dropout"],
            **self._panel_and_pixels,
        )

    def _after_training(self, bank: ExpressionBank) -> None:
        """Embed the profiles of the training spots, and of no others."""
        rows = self.training_split.rows("train")
        self.module.eval()
        keys = []
        with torch.inference_mode():
            for block in np.array_split(rows, max(1, -(-len(rows) // BATCH_SIZE))):
                measured = torch.from_numpy(bank.measured[bank.slide_of_row[block]])
                values = torch.from_numpy(bank.values[block])
                embedded = self._apply_genes(values.to(self.device), measured.to(self.device))
                keys.append(embedded.float().cpu())
        known = bank.measured[bank.slide_of_row[rows]]
        names = [
            (name, str(spot))
            for name, frame in self.training_frames.items()
            for spot in frame.obs_names
        ]
        self.references = ReferenceBank(
            torch.cat(keys),
            torch.from_numpy(np.where(known, bank.values[rows], np.float32(np.nan))),
            [names[row] for row in rows],
        )

    @checked
    def retrieve(
        self, sdata: SpatialDatas | None = None
    ) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
        """Tell which training spots a prediction comes from, and how far their profiles are apart.

        Parameters
        ----------
        sdata
            Data to predict; by default the data the model was made with.

        Returns
        -------
        For each slide, indexed by obs names: names ``slide/spot`` of the profiles, the nearest first,
        ``[n_obs, n_neighbors]``; and the standard deviation over them, ``[n_obs, n_genes]``.
        """
        self._check_trained()
        bank, found = self._bank(), {}
        for slide, frame in self._frames_of(sdata, counts=False).items():
            latent = torch.from_numpy(self._run(frame)["latent"])
            got = bank.retrieve(latent, self.module_kwargs["n_neighbors"], "mean")
            index = pd.Index(frame.obs_names)
            names = np.array(["/".join(spot) for spot in bank.spots], object)[got.rows.numpy()]
            spread = pd.DataFrame(got.spread.numpy(), index=index, columns=self.genes)
            found[slide] = pd.DataFrame(names, index=index), spread
        return found

    def _apply(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.module.averaged_features(images, tta=self.module_kwargs["tta"])
        latent = self.module.project(features).float()
        k, weighting = self.module_kwargs["n_neighbors"], self.module_kwargs["weighting"]
        return {
            "latent": latent,
            "expression": self._bank().retrieve(latent, k, weighting).expression,
        }

    def _bank(self) -> ReferenceBank:
        if self.references is None:
            msg = "this BLEEP has no profiles to retrieve from; call `model.train()` first"
            raise NotTrainedError(msg)
        # Moved once, not with every batch of tiles.
        self.references = self.references.to(self.device)
        return self.references

    def _method_state(self) -> dict[str, torch.Tensor]:
        return {} if self.references is None else self.references.to_tensors()

    def _restore_method_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.references = ReferenceBank.from_tensors(tensors) if tensors else None
