from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rankbygene.nn import build_backbone, set_fine_tuning

PX = 32


def vit(**lora: Any) -> tuple[nn.Module, nn.Module]:
    """A transformer as it was, and with additions that are not zero any more."""
    torch.manual_seed(0)
    plain, _ = build_backbone("test_vit", pretrained=False, tile_px=PX)
    added = copy.deepcopy(plain)
    set_fine_tuning(added, "lora", lora_kwargs=lora)
    assert torch.equal(
        added.eval()(torch.ones(1, 3, PX, PX)), plain.eval()(torch.ones(1, 3, PX, PX))
    )
    for name, weight in added.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.05)
    return plain, added


def linears(network: Any) -> dict[str, nn.Linear]:
    return {n: part for n, part in network.named_modules() if type(part) is nn.Linear}


@pytest.mark.parametrize(
    ("lora", "rank", "scale"),
    [({}, 8, 2.0), ({"rank": 4, "alpha": 12}, 4, 3.0), ({"rank": 3, "dropout": 0.5}, 3, 2.0)],
)
def test_low_rank_additions_are_those_of_merged_weights(
    lora: dict[str, Any], rank: int, scale: float
) -> None:
    plain, added = vit(**lora)
    images = torch.rand(3, 3, PX, PX)
    merged, parts = copy.deepcopy(plain), dict(added.network.named_modules())
    n_added = 0
    for name, layer in linears(merged.network).items():
        down, up = (parts[f"{name}.lora_{which}.default"].weight for which in "AB")
        assert (down.shape, up.shape) == ((rank, layer.in_features), (layer.out_features, rank))
        with torch.no_grad():
            layer.weight += scale * up @ down
        n_added += rank * (layer.in_features + layer.out_features)
    with torch.no_grad():
        expected = merged.eval()(images)
        torch.testing.assert_close(added.eval()(images), expected, rtol=1e-4, atol=1e-5)
        assert float((plain.eval()(images) - expected).abs().max()) > 0.1
        noisy = not torch.equal(added.train()(images), added(images))
    assert noisy == ("dropout" in lora)
    trained = {name: p.numel() for name, p in added.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)
    assert sum(trained.values()) == n_added


def test_gradients_of_an_addition_are_those_of_its_formula() -> None:
    own = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    network, _ = build_backbone(own, tile_px=2)
    set_fine_tuning(network, "lora", lora_kwargs={"rank": 2, "alpha": 6})
    layer: Any = network.network[1]
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    nn.init.normal_(up)
    x, target = torch.rand(4, 3, 2, 2), torch.rand(4, 5)
    output = network(x)
    F.mse_loss(output, target, reduction="sum").backward()
    error, rows = 2 * (output.detach() - target), x.flatten(1)
    torch.testing.assert_close(up.grad, 3 * error.T @ rows @ down.detach().T)
    torch.testing.assert_close(down.grad, 3 * up.detach().T @ error.T @ rows)
    assert layer.base_layer.weight.grad is None


def test_additions_act_on_linear_layers_alone_whatever_their_names_end_in() -> None:
    class Other(nn.Linear):
        pass

    own = nn.Sequential(nn.Flatten(), nn.Sequential(Other(12, 6), Other(6, 6)), nn.Linear(6, 4))
    own.add_module("0", nn.Flatten())
    own[1].add_module("2", Other(6, 6))  # "1.2" ends in the name of the last layer, "2"
    network, _ = build_backbone(own, tile_px=2)
    set_fine_tuning(network, "lora")
    trained = {n.split(".lora_")[0] for n, p in network.named_parameters() if p.requires_grad}
    assert trained == {"network.2"}


@pytest.mark.parametrize(
    ("name", "own", "following"),
    [
        ("test_vit", ("blocks.4.", "blocks.5."), ("norm.",)),
        ("test_resnet", ("layer3.0.", "layer4.0."), ()),
        ("test_convnext", ("stages.3.blocks.0.", "stages.3.blocks.1."), ("stages.3.down", "head.")),
        ("test_efficientnet", ("blocks.3.0.", "blocks.4.0."), ("conv_head.", "bn2.")),
    ],
)
def test_the_last_blocks_are_the_last_and_what_follows(
    name: str, own: tuple[str, ...], following: tuple[str, ...]
) -> None:
    backbone, _ = build_backbone(name, pretrained=False, tile_px=PX)
    network: Any = backbone.network
    set_fine_tuning(backbone, "last_n", n_last=2)
    names = [n for n, p in network.named_parameters() if p.requires_grad]
    last_frozen = max(
        i for i, (_, p) in enumerate(network.named_parameters()) if not p.requires_grad
    )
    assert len(names) == len(list(network.parameters())) - last_frozen - 1
    assert {n for n in names if not n.startswith((*own, *following))} == set()
    assert all(any(n.startswith(prefix) for n in names) for prefix in own)


@pytest.mark.parametrize(
    "lora", [{"rank": 0}, {"rank": 1.5}, {"alpha": 0}, {"alpha": -1}, {"dropout": 1}]
)
def test_additions_that_cannot_be_are_refused(lora: dict[str, Any]) -> None:
    network, _ = build_backbone("test_vit", pretrained=False, tile_px=PX)
    with pytest.raises((ValueError, TypeError), match=f"{next(iter(lora))} of lora_kwargs"):
        set_fine_tuning(network, "lora", lora_kwargs=lora)
