"""Results of a trained model: representations, predictions, annotated tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import pandas as pd
import torch

from rankbygene._arguments import checked
from rankbygene._checks import check_key
from rankbygene._keys import Keys
from rankbygene.base._inference import (
    BATCH_SIZE,
    FULL,
    AnyPrecision,
    choose_precision,
    finite,
    run_over_tiles,
)
from rankbygene.base.spots._annotate import (
    SlideResult,
    check_keys_free,
    check_layer_fits,
    group_by_table,
    write_table,
)
from rankbygene.base.spots._record import provenance
from rankbygene.base.spots._slide import slide_frame, slide_table
from rankbygene.base.spots._state import ModelState
from rankbygene.base.spots._stream import predict_to_store, tile_by_tile, tile_reader
from rankbygene.base.spots._surroundings import Around, Combination
from rankbygene.data import expression_matrix
from rankbygene.errors import InputKeyError, InputValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from rankbygene.base._setup import SpatialDatas
    from rankbygene.data import SpotFrame

T = TypeVar("T")


class ResultsMixin(ModelState):
    """What can be asked of a trained model."""

    @checked
    def get_latent_representation(
        self,
        sdata: SpatialDatas | None = None,
        modality: Literal["image", "gene"] = "image",
        *,
        precision: AnyPrecision = FULL,
    ) -> NDArray[np.float32] | dict[str, NDArray[np.float32]]:
        """Represent every spot.

        Parameters
        ----------
        sdata
            Data to represent; by default the data the model was made with.
        modality
            ``"image"`` needs only tiles; ``"gene"`` needs the counts of the panel.
        precision
            Of the network: ``"32-true"``, float32 on every device; ``"bf16-mixed"`` or ``"16-mixed"``,
            faster where the device computes them natively; ``"auto"``, bfloat16 on such a GPU.

        Returns
        -------
        float32 ``[n_obs, n_latent]``; for several slides a dict ``{slide: array}``.
        """
        self._check_trained()
        precision = choose_precision(precision, self.device)
        if modality not in ("image", "gene"):
            msg = f"modality={modality!r} is not known; choose 'image' or 'gene'"
            raise InputValueError(msg)
        self._check_gives("gene" if modality == "gene" else "latent")
        frames = self._frames_of(sdata, counts=modality == "gene")
        if modality == "gene":
            return one_or_all({name: self._run_genes(frame) for name, frame in frames.items()})
        return one_or_all(
            {
                name: self._run(frame, precision=precision)["latent"]
                for name, frame in frames.items()
            }
        )

    @checked
    def get_normalized_expression(
        self,
        sdata: SpatialDatas | None = None,
        gene_list: Sequence[str] | None = None,
        *,
        scale: Literal["normalized", "counts"] = "normalized",
        precision: AnyPrecision = FULL,
    ) -> pd.DataFrame | dict[str, pd.DataFrame]:
        """Predict expression from the image alone.

        Parameters
        ----------
        sdata
            Data to predict; by default the data the model was made with.
        gene_list
            Genes to return, among those of ``model.genes``.
        scale
            ``"normalized"``: the scale of training, described by ``model.normalization``.
            ``"counts"``: counts per ``target_sum``, the logarithm undone.
        precision
            Of the network: ``"32-true"``, float32 on every device; ``"bf16-mixed"`` or ``"16-mixed"``,
            faster where the device computes them natively; ``"auto"``, bfloat16 on such a GPU.

        Returns
        -------
        DataFrame ``[n_obs, n_genes]`` indexed by obs names; for several slides a dict.

        Raises
        ------
        InputKeyError
            A gene is not in the model's panel.
        """
        self._check_trained()
        precision = choose_precision(precision, self.device)
        self._check_gives("expression")
        genes = self._check_genes(gene_list)
        results = {}
        for name, frame in self._frames_of(sdata, counts=False).items():
            values = self._run(frame, precision=precision)["expression"]
            if scale == "counts":
                values = self.normalization.to_counts_per_target(values)
            table = pd.DataFrame(values, index=pd.Index(frame.obs_names), columns=self.genes)
            results[name] = table.loc[:, genes]
        return one_or_all(results)

    @checked
    def annotate(
        self,
        sdata: SpatialDatas | None = None,
        key_added: str | None = None,
        *,
        precision: AnyPrecision = FULL,
    ) -> None:
        """Write representation and prediction into the table of each slide.

        Writes ``.obsm["X_<key>"]``, ``.layers["<key>"]`` (NaN for genes outside the panel),
        ``.obs["<key>_split"]``, ``.var["<key>_panel"]``, ``.var["<key>_pearson"]`` and
        ``.uns["<key>_params"]``, in memory and only after everything has been computed.

        Parameters
        ----------
        sdata
            Data to annotate; by default the data the model was made with. Its set-up is the model's where
            it has none of its own, but for a ``um_per_px`` that was said of other slides.
        key_added
            Prefix of the keys; by default the method's name.
        precision
            Of the network: ``"32-true"``, float32 on every device; ``"bf16-mixed"`` or ``"16-mixed"``,
            faster where the device computes them natively; ``"auto"``, bfloat16 on such a GPU.

        Raises
        ------
        InputValueError
            One of the keys holds something that this package did not write, the dense layer would
            not fit in memory, or nothing tells the scale of other slides than the model's own.
        """
        self._check_trained()
        precision = choose_precision(precision, self.device)
        keys = Keys(key_added or self.method)
        frames = self._frames_of(sdata, counts=False)
        groups = group_by_table(frames)
        for group in groups:
            check_keys_free(group[0].table, keys)
        check_layer_fits(frames)
        results = {name: self._slide_result(frame, precision) for name, frame in frames.items()}
        for group in groups:
            write_table(
                group,
                results,
                keys=keys,
                genes=self.genes,
                pearson=self.validation_pearson,
                params=provenance(self, group, precision),
            )

    @checked(table_key=check_key)
    def predict_slide(
        self,
        sdata: SpatialData,
        *,
        image_key: str | None = None,
        shapes_key: str | None = None,
        table_key: str = "rankbygene",
        coordinate_system: str | None = None,
        um_per_px: float | None = None,
        step_um: float | None = None,
        overwrite: bool = False,
        out: str | Path | None = None,
        shard: tuple[int, int] | None = None,
        precision: AnyPrecision = FULL,
    ) -> None:
        """Predict a slide that has an image only, and add the result as a table.

        With ``out`` the table goes to a store on disk instead, part by part, and memory holds little
        of it however large the slide is.

        Parameters
        ----------
        sdata
            Object with an H&E image.
        image_key
            The image; may be left out where only one can be meant.
        shapes_key
            Shapes to predict at. By default the tissue is found and tiled, and the tiles are
            added as shapes ``<table_key>_tiles``.
        table_key
            Name of the new table: ``X`` is the predicted expression ``[n_tiles, n_genes]`` on the
            training scale, ``.obsm["X_<method>"]`` the representation, ``.obsm["spatial"]`` the
            centres.
        coordinate_system, um_per_px
            As in :meth:`setup_spatialdata`; the scale is by default that of the spots on the image.
        step_um
            Distance between tile centres. By default the tile width; smaller steps overlap the
            tiles and make a denser map.
        overwrite
            Replace a table (and tiles) of that name, or the store ``out``.
        out
            Write a store with the table and the shapes that it annotates here, and leave ``sdata`` as it
            is. The rows of the table are in the order in which the image is read. What is finished
            waits in the folder ``<out>.parts``: the same call after an interruption goes on where it
            stopped.
        shard
            With ``out``: ``(i, n)`` computes the ``i``-th of ``n`` shares, counted from 0; whoever comes
            last writes the store, which is the same as one process would have written. By default what
            ``torchrun`` says in ``RANK`` and ``WORLD_SIZE``, else all.
        precision
            Of the network: ``"32-true"``, float32 on every device; ``"bf16-mixed"`` or ``"16-mixed"``,
            faster where the device computes them natively; ``"auto"``, bfloat16 on such a GPU.

        Raises
        ------
        OutputExistsError
            A table of that name, or the store, exists and ``overwrite`` is False.
        InputValueError
            ``shard`` is no share, or comes without ``out``; or the folder of parts belongs to another
            model or slide.
        """
        self._check_trained()
        precision = choose_precision(precision, self.device)
        if shard is not None and out is None:
            msg = f"shard={shard} divides what is written to disk; pass out=... as well"
            raise InputValueError(msg)
        frame, tiles = slide_frame(
            sdata,
            image_key=image_key,
            shapes_key=shapes_key,
            table_key=table_key,
            coordinate_system=coordinate_system,
            um_per_px=um_per_px,
            tile_um=self.tile_um,
            step_um=step_um,
            overwrite=overwrite or out is not None,
        )
        self._check_tiles({frame.slide: frame})
        if out is not None:
            element = sdata[frame.region] if tiles is None else tiles
            predict_to_store(
                self,
                frame,
                element,
                Path(out),
                table_key=table_key,
                shard=shard,
                overwrite=overwrite,
                precision=precision,
            )
            return
        values = self._run(frame, precision=precision)
        table = slide_table(
            frame,
            expression=values.get("expression"),
            latent=values.get("latent"),
            genes=self.genes if "expression" in self.gives else (),
            keys=Keys(self.method),
            params=provenance(self, [frame], precision),
        )
        if tiles is not None:
            sdata.shapes[frame.region] = tiles
        sdata.tables[table_key] = table

    def _run(
        self,
        frame: SpotFrame,
        rows: NDArray[np.intp] | None = None,
        *,
        precision: AnyPrecision = FULL,
    ) -> dict[str, NDArray[np.float32]]:
        """Apply the network to the tiles of one slide, or of some of its rows."""
        chosen = np.arange(frame.n_obs) if rows is None else rows
        context = self._context(None)
        around = Around(frame, context)
        needed = around.rows_needed(chosen)
        self.module.eval()
        values = run_over_tiles(
            tile_by_tile(self, context),
            self._stream(frame, needed),
            len(needed),
            device=self.device,
            batch_size=BATCH_SIZE,
            precision=precision,
        )
        if context.looks_around:
            place = np.full(frame.n_obs, -1)
            place[needed] = np.arange(len(needed))
            combined = Combination(
                self, around, list(values), lambda name, wanted: values[name][place[wanted]]
            )
            values = combined(chosen)
        return finite(values, frame.slide)

    def _stream(
        self, frame: SpotFrame, rows: NDArray[np.intp]
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.uint8]]]:
        """Tiles of some rows, each with its place among them."""
        if self._tiles is None or self.training_frames.get(frame.slide) is not frame:
            reader = tile_reader(self, frame)
            place = np.empty(frame.n_obs, np.intp)
            place[rows] = np.arange(len(rows))
            for found, tiles in reader.stream(rows):
                yield place[found], tiles
            return
        start = self._tiles.slices[frame.slide].start
        for first in range(0, len(rows), BATCH_SIZE):
            block = np.arange(first, min(first + BATCH_SIZE, len(rows)))
            yield block, self._tiles[start + rows[block]]

    def _run_genes(self, frame: SpotFrame) -> NDArray[np.float32]:
        values, measured = expression_matrix(frame, self.genes, self.normalization)
        self.module.eval()
        mask = torch.from_numpy(measured).expand(values.shape).to(self.device)
        with torch.inference_mode():
            latent = self._apply_genes(torch.from_numpy(values).to(self.device), mask)
        return finite({"gene latent": latent.float().cpu().numpy()}, frame.slide)["gene latent"]

    def _slide_result(self, frame: SpotFrame, precision: AnyPrecision) -> SlideResult:
        values = self._run(frame, precision=precision)
        # A slide or spot that the model never saw is test data.
        if self.is_recorded and self.frames.get(frame.slide) is frame:
            labels = self.split.labels[frame.slide].astype(object)
        else:
            labels = self.record.labels_of(frame, self.genes)
        split = np.where(pd.isna(labels), "test", labels)
        return SlideResult(values.get("latent"), values.get("expression"), split)

    def _check_genes(self, gene_list: Sequence[str] | None) -> list[str]:
        if gene_list is None:
            return self.genes
        known = set(self.genes)
        unknown = [gene for gene in gene_list if gene not in known]
        if unknown:
            msg = (
                f"{len(unknown)} genes are not predicted by this model (first: "
                f"{', '.join(unknown[:5])}); `model.genes` lists the {len(self.genes)} that are"
            )
            raise InputKeyError(msg)
        return list(gene_list)


def one_or_all(results: Mapping[str, T]) -> T | dict[str, T]:
    """Return the result of the only slide, or the dict over several."""
    return next(iter(results.values())) if len(results) == 1 else dict(results)
