from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rankbygene.module import NH2ST_RELEASED_MODULE, Encoded, NH2STModule, SimCLRModule
from rankbygene.nn import CrossAttention, build_backbone
from rankbygene.nn.losses import info_nce

PX, N_GENES = 32, 6
# Four spots in a row of ten tiles; the last has three neighbours only.
NEIGHBOURS = torch.tensor(
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8],
        [1, 0, 2, 3, 4, 5, 6, 7, 8],
        [5, 4, 6, 3, 7, 2, 8, 1, 9],
        [9, 8, 7, 6, -1, -1, -1, -1, -1],
    ]
)


def make(**settings: Any) -> NH2STModule:
    torch.manual_seed(0)
    backbone, spec = build_backbone("test_resnet", pretrained=False, tile_px=PX)
    module = NH2STModule(
        backbone,
        n_features=spec.n_features,
        n_genes=N_GENES,
        map_shape=backbone.map_shape(PX),
        **({"n_latent": 16, "n_hidden": 24} | settings),
    )
    module.set_expression_stats(torch.arange(6.0), torch.full((6,), 2.0))
    return module.eval()


def inputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (10, 3, PX, PX), dtype=torch.uint8, generator=generator)
    expression = torch.randn(10, N_GENES, generator=generator)
    return images, expression, torch.ones(10, N_GENES, dtype=torch.bool)


VARIANTS = {
    "default": {},
    "post": {"contrast_on": "post", "tokens": "map"},
    "vector": {"contrast_on": "post", "tokens": "vector"},
    "query": {"decode_from": "query"},
    "relu": {"activation": "relu"},
    "released": NH2ST_RELEASED_MODULE,
}


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_shapes(settings: dict[str, Any]) -> None:
    module = make(**settings)
    images, expression, measured = inputs()
    output = module(module.encode(images), expression, measured, NEIGHBOURS)
    for pair in (output.query, output.neighbour):
        assert [tuple(side.shape) for side in pair] == [(4, 16), (4, 16)]
    assert output.expression.shape == (4, N_GENES)
    predicted = module.predict(images, NEIGHBOURS, tta=1)
    assert torch.allclose(predicted, module.to_training_scale(output.expression), atol=1e-5)
    alone = module(module.encode(images), expression, measured, torch.arange(10)[:, None])
    assert alone.expression.shape == (10, N_GENES)
    assert torch.isfinite(torch.stack(alone.neighbour)).all()


def test_the_released_sizes() -> None:
    torch.manual_seed(0)
    backbone, spec = build_backbone("resnet18", pretrained=False, tile_px=224)
    assert backbone.map_shape(224) == (49, 512)
    module = NH2STModule(
        backbone,
        n_features=spec.n_features,
        n_genes=250,
        map_shape=(49, 512),
        **NH2ST_RELEASED_MODULE,
    )
    millions = {
        name: sum(p.numel() for p in part.parameters()) / 1e6
        for name, part in module.named_children()
    }
    assert millions["backbone"] == pytest.approx(11.18, abs=0.01)
    assert millions["query"] == pytest.approx(12.85, abs=0.01)
    assert millions["image_context"] == pytest.approx(26.22, abs=0.01)
    assert millions["gene_context"] == pytest.approx(1.05, abs=0.01)
    path = ("backbone", "query", "decoder")
    assert sum(millions[name] for name in path) == pytest.approx(24.2, abs=0.05)


def test_by_the_query_alone_neither_neighbours_nor_genes_change_the_prediction() -> None:
    images, expression, measured = inputs()
    other_images, other_genes, _ = inputs(1)
    other_images[NEIGHBOURS[0, 0]] = images[NEIGHBOURS[0, 0]]
    for decode_from, changes in (("query", False), ("query+neighbours", True)):
        module = make(decode_from=decode_from)
        first = module(module.encode(images), expression, measured, NEIGHBOURS[:1]).expression
        genes = module(module.encode(images), other_genes, measured, NEIGHBOURS[:1]).expression
        assert torch.equal(first, genes)
        context = module(module.encode(other_images), expression, measured, NEIGHBOURS[:1])
        assert torch.allclose(first, context.expression, atol=1e-5) is not changes


@pytest.mark.parametrize("contrast_on", ["pre", "post"])
def test_which_parts_a_loss_reaches(contrast_on: str) -> None:
    module = make(contrast_on=contrast_on, decode_from="query")
    images, expression, measured = inputs()

    def reached(loss: torch.Tensor) -> set[str]:
        module.zero_grad(set_to_none=True)
        loss.backward()
        return {
            name
            for name, part in module.named_children()
            if any(p.grad is not None and bool((p.grad != 0).any()) for p in part.parameters())
        }

    output = module(module.encode(images), expression, measured, NEIGHBOURS)
    assert reached(output.expression.square().mean()) == {"backbone", "query", "decoder"}
    output = module(module.encode(images), expression, measured, NEIGHBOURS)
    contrast = info_nce(*output.query) + info_nce(*output.neighbour)
    both = {"backbone", "query", "gene_encoder", "image_context", "gene_context"}
    if contrast_on == "post":
        both |= {"query_attention", "neighbour_attention", "place"}
    assert reached(contrast) == both


@pytest.mark.slow
def test_contrast_after_cross_attention_is_solved_without_aligning_anything() -> None:
    """Image and gene vectors that know nothing of each other are told apart by the leak alone."""
    retrieval = {}
    for contrast_on in ("pre", "post"):
        torch.manual_seed(0)
        attention = CrossAttention(32, n_heads=4, dropout=0.0)
        image_side, gene_side = nn.Linear(32, 32), nn.Linear(32, 32)

        def embed(
            image: torch.Tensor,
            gene: torch.Tensor,
            fuse: bool = contrast_on == "post",
            parts: tuple[Any, ...] = (attention, image_side, gene_side),
        ) -> tuple[torch.Tensor, torch.Tensor]:
            attend, of_image, of_gene = parts
            image, gene = of_image(image), of_gene(gene)
            return (attend(image, gene), attend(gene, image)) if fuse else (image, gene)

        parameters = [p for m in (attention, image_side, gene_side) for p in m.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=3e-3)
        for _ in range(300):
            loss = info_nce(*embed(torch.randn(64, 32), torch.randn(64, 32)), temperature=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            image, gene = embed(torch.randn(256, 32), torch.randn(256, 32))
        nearest = (F.normalize(image, dim=1) @ F.normalize(gene, dim=1).T).argmax(1)
        retrieval[contrast_on] = float((nearest == torch.arange(256)).float().mean())
    assert retrieval["post"] > 0.9
    assert retrieval["pre"] < 0.05


def test_the_order_of_cross_attention() -> None:
    images, expression, measured = inputs()
    simultaneous = make(contrast_on="post", tokens="vector")
    sequential = make(contrast_on="post", tokens="vector", sequential=True)
    sequential.load_state_dict(simultaneous.state_dict())
    first, second = (
        module(module.encode(images), expression, measured, NEIGHBOURS).query
        for module in (simultaneous, sequential)
    )
    assert torch.equal(first[0], second[0])
    assert not torch.allclose(first[1], second[1], atol=1e-3)
    assert simultaneous.query_attention is not simultaneous.neighbour_attention
    shared = make(contrast_on="post", share_cross_attention=True)
    assert shared.query_attention is shared.neighbour_attention


def test_genes_choose_among_the_places_of_a_map() -> None:
    module = make(contrast_on="post", tokens="map")
    images, expression, measured = inputs()
    encoded = module.encode(F.interpolate(images.float() / 255, size=64))
    assert encoded.places is not None
    assert encoded.places.shape[1] > 1
    before = module(encoded, expression, measured, NEIGHBOURS).query[1]
    moved = Encoded(encoded.features, encoded.places.roll(1, 1))
    assert torch.allclose(
        before, module(moved, expression, measured, NEIGHBOURS).query[1], atol=1e-5
    )
    changed = encoded.places.clone()
    changed[:, 0] += 5
    after = module(Encoded(encoded.features, changed), expression, measured, NEIGHBOURS).query[1]
    assert not torch.allclose(before, after, atol=1e-3)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_without_activation_genes_and_decoder_are_affine(activation: Any) -> None:
    module = make(activation=activation)
    for part, width in ((module.gene_encoder, N_GENES), (module.decoder, 32)):
        x, y = 10 * torch.randn(2, 8, width)
        zero = part(torch.zeros(1, width))
        additive = torch.allclose(part(x + y) + zero, part(x) + part(y), atol=1e-3)
        assert additive is (activation is None)


def test_unmeasured_genes_say_nothing() -> None:
    module = make()
    _, expression, measured = inputs()
    measured = measured.clone()
    measured[:, 2] = False
    changed = expression.clone()
    changed[:, 2] = 99
    assert torch.equal(
        module.gene_features(changed, measured), module.gene_features(expression, measured)
    )


def test_maps_of_several_kinds_of_encoder() -> None:
    class Map(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.avg_pool2d(x, 8)

    for encoder, shape in ((Map(), (16, 3)), ("test_vit", (4, 64)), (nn.Flatten(), (1, 3072))):
        backbone, spec = build_backbone(encoder, pretrained=False, tile_px=PX)
        assert backbone.map_shape(PX) == shape
        vectors, places = backbone.eval().forward_map(torch.rand(2, 3, PX, PX))
        assert vectors.shape == (2, spec.n_features)
        assert places.shape == (2, *shape)
        images = torch.rand(2, 3, PX, PX)
        assert torch.allclose(backbone(images), backbone.forward_map(images)[0], atol=1e-6)


def test_pixel_statistics_are_of_three_channels() -> None:
    for name in ("pixel_mean", "pixel_std"):
        with pytest.raises(TypeError, match=f"{name} is .*; 3 numbers are needed"):
            make(**{name: (0.5, 0.5)})
        with pytest.raises(TypeError, match=f"{name} is .*; 3 numbers are needed"):
            SimCLRModule(nn.Identity(), n_features=4, **{name: [0.5, 0.5]})


def test_choices_are_checked() -> None:
    with pytest.raises(ValueError, match="allowed are 'pre', 'post'"):
        make(contrast_on="both")
    with pytest.raises(ValueError, match="tokens='vector'"):
        make(contrast_on="post", sequential=True)
    with pytest.raises(ValueError, match="contrast_on='post'"):
        make(share_cross_attention=True)
    backbone, spec = build_backbone("test_resnet", pretrained=False, tile_px=PX)
    with pytest.raises(ValueError, match="map_shape"):
        NH2STModule(backbone, n_features=spec.n_features, n_genes=3, pooling="flatten")
