"""The networks of NH2ST: a branch for the spot, a branch for its neighbourhood, a decoder."""

from __future__ import annotations

from itertools import islice
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import nn

from rankbygene._arguments import checked
from rankbygene._renamed import renamed
from rankbygene.base.spots._module import SpotModule
from rankbygene.errors import InputValueError
from rankbygene.nn import (
    CrossAttention,
    HypergraphEncoder,
    orientations,
    similarity_hypergraph,
)

__all__ = ["NH2ST_RELEASED_MODULE", "Encoded", "NH2STModule", "NH2STOutput"]

Pooling = Literal["mean", "flatten"]
Tokens = Literal["vector", "map"]
ContrastOn = Literal["pre", "post"]
DecodeFrom = Literal["query", "query+neighbours"]
Activation = Literal["relu"]


# What the authors' networks do, where it departs from the defaults below.
NH2ST_RELEASED_MODULE: dict[str, Any] = {
    "contrast_on": "post",
    "decode_from": "query",
    "tokens": "vector",
    "sequential": True,
    "share_cross_attention": True,
    "pooling": "flatten",
    "activation": None,
    "standardize": False,
    "dropout": 0.5,
}


class Encoded(NamedTuple):
    """What the image encoder says of tiles.

    Attributes
    ----------
    features
        ``[U, n_in]``.
    places
        Feature maps ``[U, T, n_place]``; None where attention does not need them.
    """

    features: torch.Tensor
    places: torch.Tensor | None = None


class NH2STOutput(NamedTuple):
    """What the losses compare, for ``B`` spots.

    Attributes
    ----------
    query
        Image and gene representation of the spot, each ``[B, n_latent]``.
    neighbour
        Image and gene representation of its neighbourhood.
    expression
        Standardised prediction ``[B, n_genes]``.
    """

    query: tuple[torch.Tensor, torch.Tensor]
    neighbour: tuple[torch.Tensor, torch.Tensor]
    expression: torch.Tensor


class NH2STModule(SpotModule):
    """Query branch, neighbour branch and decoder.

    Parameters
    ----------
    backbone
        Image encoder of :func:`rankbygene.nn.build_backbone`.
    n_features
        Width of its vectors.
    n_genes
        Size of the panel.
    map_shape
        Places and features of its maps, ``backbone.map_shape(tile_px)``; needed by
        ``pooling="flatten"`` and ``tokens="map"``.
    n_latent, n_hidden
        Widths of the representations and of the first hypergraph convolution.
    k
        Partners of a spot in its hyperedge, see :func:`~rankbygene.nn.similarity_hypergraph`.
    contrast_on
        What the losses compare: representations before (``"pre"``) or after (``"post"``)
        cross-attention. After it each side has seen its partner, so that the contrast can be solved
        by recognising the partner, without any agreement of image and genes. Before it there is no
        cross-attention at all: what follows concerns ``"post"`` alone where it says so.
    decode_from
        ``"query"``: expression is predicted from the spot's own tile. ``"query+neighbours"``: from
        the image representation of its neighbourhood as well, which needs no genes either.
    tokens
        What cross-attention (``"post"``) looks at. ``"vector"``: one vector of the image, which leaves
        attention nothing to choose. ``"map"``: genes look at the places of the tile; between
        neighbourhoods each side looks at the other's spots.
    sequential
        In ``"post"``, let genes look at the image side after its own attention, not before.
    share_cross_attention
        In ``"post"``, one cross-attention for both branches.
    pooling
        Take the encoder's vector (``"mean"``), or its whole map as one long vector (``"flatten"``).
    activation
        Between the two layers of gene encoder and decoder. None makes both affine.
    standardize
        Work on standardised genes; else on the training scale as it is.
    n_heads, depth, mlp_ratio, dropout
        Of cross-attention, see :class:`~rankbygene.nn.CrossAttention`.
    pixel_mean, pixel_std
        Channel statistics that the backbone expects, on the scale [0, 1].

    Raises
    ------
    InputValueError
        A choice is not known, or two of them exclude each other.

    References
    ----------
    :cite:p:`qu2025nh2st`. ``rankbygene.module.NH2ST_RELEASED_MODULE`` holds the choices of the released code.
    """

    @checked
    def __init__(
        self,
        backbone: nn.Module,
        *,
        n_features: int,
        n_genes: int,
        map_shape: tuple[int, int] | None = None,
        n_latent: int = 512,
        n_hidden: int = 1024,
        k: int = 3,
        contrast_on: ContrastOn = "pre",
        decode_from: DecodeFrom = "query+neighbours",
        tokens: Tokens = "map",
        sequential: bool = False,
        share_cross_attention: bool = False,
        pooling: Pooling = "mean",
        activation: Activation | None = None,
        standardize: bool = True,
        n_heads: int = 8,
        depth: int = 1,
        mlp_ratio: float = 1.0,
        dropout: float = 0.1,
        pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__(n_genes, pixel_mean, pixel_std)
        _check_choices(
            contrast_on=(contrast_on, get_args(ContrastOn)),
            decode_from=(decode_from, get_args(DecodeFrom)),
            tokens=(tokens, get_args(Tokens)),
            pooling=(pooling, get_args(Pooling)),
            activation=(activation, (*get_args(Activation), None)),
        )
        _check_attention(contrast_on, tokens, sequential, share_cross_attention)
        attends = contrast_on == "post"
        needs_map = pooling == "flatten" or (attends and tokens == "map")
        if needs_map and map_shape is None:
            msg = "pooling='flatten' and tokens='map' need map_shape=backbone.map_shape(tile_px)"
            raise InputValueError(msg)
        n_places, n_place = map_shape or (0, 0)
        n_in = n_places * n_place if pooling == "flatten" else n_features
        self.needs_map, self.pooling, self.tokens = needs_map, pooling, tokens
        self.k, self.sequential, self.standardizes = k, sequential, standardize
        self.decode_from = decode_from
        self.backbone = backbone
        self.query = nn.Linear(n_in, n_latent)
        self.gene_encoder = _two_layers(n_genes, n_latent, n_latent, activation)
        self.image_context = HypergraphEncoder(n_in, n_hidden, n_latent)
        self.gene_context = HypergraphEncoder(n_latent, n_hidden, n_latent)
        n_decoded = n_latent if decode_from == "query" else 2 * n_latent
        self.decoder = _two_layers(n_decoded, n_latent // 2, n_genes, activation)
        self.query_attention: CrossAttention | None = None
        self.neighbour_attention: CrossAttention | None = None
        if attends:
            settings: dict[str, Any] = {
                "n_heads": n_heads,
                "depth": depth,
                "mlp_ratio": mlp_ratio,
                "dropout": dropout,
            }
            self.query_attention = CrossAttention(n_latent, **settings)
            self.neighbour_attention = (
                self.query_attention
                if share_cross_attention
                else CrossAttention(n_latent, **settings)
            )
            if tokens == "map":
                self.place = nn.Linear(n_place, n_latent)

    def set_expression_stats(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Store mean and standard deviation ``[n_genes]``, where genes are standardised."""
        if self.standardizes:
            super().set_expression_stats(mean, std)

    # ---- images alone --------------------------------------------------------------------------

    def encode(self, images: torch.Tensor) -> Encoded:
        """Encode tiles ``[U, 3, H, W]``, uint8 or float in [0, 1]."""
        backbone: Any = self.backbone
        normalized = self.normalize_images(images)
        if not self.needs_map:
            return Encoded(backbone(normalized))
        vectors, places = backbone.forward_map(normalized)
        if self.pooling == "flatten":
            return Encoded(places.flatten(1), places)
        return Encoded(vectors, places)

    @property
    def encoders(self) -> list[nn.Module]:
        """The image encoder."""
        return [self.backbone]

    def encode_orientations(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Encode tiles in each orientation: ``features``, and ``places`` where attention needs them."""
        encoded = [self.encode(view) for view in orientations(images)]
        kept = {"features": torch.stack([one.features for one in encoded], 1)}
        if self.query_attention is not None and self.tokens == "map":
            kept["places"] = torch.stack([_of(one.places) for one in encoded], 1)
        return kept

    @checked
    @renamed(views="tta")
    def image_features(self, images: torch.Tensor, *, tta: int = 8) -> torch.Tensor:
        """Encode tiles to ``[U, n_in]``, the mean over ``tta`` of their eight orientations."""
        turned = islice(orientations(images), tta)
        return torch.stack([self.encode(image).features.float() for image in turned]).mean(0)

    def predict_from_features(
        self, features: torch.Tensor, neighbours: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Predict expression on the training scale.

        Parameters
        ----------
        features
            ``[U, n_in]``, of different tiles.
        neighbours
            As for :meth:`forward`; by default each tile for itself, alone.

        Returns
        -------
        ``[B, n_genes]``, one row per row of ``neighbours``.
        """
        if neighbours is None:
            neighbours = torch.arange(len(features), device=features.device)[:, None]
        image = self.query(features[neighbours[:, 0]])
        context = None
        if self.decode_from != "query":
            incidence = self._hypergraph(features, neighbours)
            _, context = self.image_context(features, neighbours, incidence)
        return self.to_training_scale(self._decode(image, context))

    @checked
    @renamed(views="tta")
    def predict(
        self, images: torch.Tensor, neighbours: torch.Tensor | None = None, *, tta: int = 8
    ) -> torch.Tensor:
        """Predict expression from tiles, see :meth:`predict_from_features`."""
        return self.predict_from_features(self.image_features(images, tta=tta), neighbours)

    # ---- images and genes ----------------------------------------------------------------------

    def gene_features(
        self, expression: torch.Tensor, measured: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Map expression ``[U, n_genes]`` on the training scale to ``[U, n_latent]``."""
        values = self.fill_unmeasured(self.standardize(expression), measured)
        latent: torch.Tensor = self.gene_encoder(values)
        return latent

    def forward(
        self,
        encoded: Encoded,
        expression: torch.Tensor,
        measured: torch.Tensor | None,
        neighbours: torch.Tensor,
    ) -> NH2STOutput:
        """Compute all that the losses compare.

        Parameters
        ----------
        encoded
            ``U`` different tiles.
        expression, measured
            Of the same spots, ``[U, n_genes]``.
        neighbours
            int64 ``[B, n]``: for each of ``B`` spots the places of its neighbourhood among the
            ``U``, itself first, -1 for a missing one.
        """
        spots = neighbours[:, 0]
        genes = self.gene_features(expression, measured)
        image, gene = self.query(encoded.features[spots]), genes[spots]
        incidence = self._hypergraph(encoded.features, neighbours)
        image_nodes, image_mean = self.image_context(encoded.features, neighbours, incidence)
        gene_nodes, gene_mean = self.gene_context(genes, neighbours, incidence)
        predicted = self._decode(image, image_mean)
        if self.query_attention is None or self.neighbour_attention is None:
            return NH2STOutput((image, gene), (image_mean, gene_mean), predicted)
        keys: dict[str, tuple[torch.Tensor, ...]] = {
            "query": (image, gene),
            "neighbour": (image_mean, gene_mean),
        }
        if self.tokens == "map":
            places = self.place(_of(encoded.places)[spots])
            keys = {
                "query": (places, gene),
                "neighbour": (image_nodes, gene_nodes, neighbours >= 0),
            }
        query = self._fuse(self.query_attention, image, gene, *keys["query"])
        neighbour = self._fuse(self.neighbour_attention, image_mean, gene_mean, *keys["neighbour"])
        return NH2STOutput(query, neighbour, predicted)

    def _fuse(
        self,
        attention: CrossAttention,
        image: torch.Tensor,
        gene: torch.Tensor,
        image_keys: torch.Tensor,
        gene_keys: torch.Tensor,
        present: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Let the image look at genes and genes at the image."""
        fused_image = attention(image, gene_keys, present)
        keys = fused_image if self.sequential else image_keys
        return fused_image, attention(gene, keys, present)

    def _decode(self, image: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
        joined = image if self.decode_from == "query" else torch.cat([image, _of(context)], dim=1)
        standardized: torch.Tensor = self.decoder(joined)
        return standardized

    def _hypergraph(self, features: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
        return similarity_hypergraph(features[neighbours.clamp(min=0)], neighbours >= 0, self.k)


def _two_layers(
    n_in: int, n_hidden: int, n_out: int, activation: Activation | None
) -> nn.Sequential:
    between = nn.Identity() if activation is None else nn.ReLU()
    return nn.Sequential(nn.Linear(n_in, n_hidden), between, nn.Linear(n_hidden, n_out))


def _of(tensor: torch.Tensor | None) -> torch.Tensor:
    """Narrow the type of what the constructor's choices have made sure of."""
    if tensor is None:
        msg = "the image encoder's map or the neighbourhood is missing"
        raise InputValueError(msg)
    return tensor


def _check_attention(
    contrast_on: ContrastOn, tokens: Tokens, sequential: bool, share_cross_attention: bool
) -> None:
    if contrast_on == "pre" and (sequential or share_cross_attention):
        msg = (
            "contrast_on='pre' has no cross-attention, so that `sequential` and "
            "`share_cross_attention` have no effect; pass contrast_on='post', or leave them out"
        )
        raise InputValueError(msg)
    if sequential and tokens == "map":
        msg = (
            "sequential=True lets genes look at the one fused vector of the image, so that "
            "tokens='map' has no effect; pass tokens='vector'"
        )
        raise InputValueError(msg)


def _check_choices(**choices: tuple[object, tuple[object, ...]]) -> None:
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            msg = f"{name}={value!r} is not known; choose {' or '.join(map(repr, allowed))}"
            raise InputValueError(msg)
