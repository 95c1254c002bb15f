from __future__ import annotations

import time
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from rankbygene.errors import BackboneError
from rankbygene.nn import PATHOLOGY_BACKBONES, build_backbone
from rankbygene.nn.encoders._backbone import PooledBackbone, _create
from rankbygene.nn.encoders._weights import load_weights

# Millions of parameters and width of the output, as their authors state them.
SIZES = {
    "uni": (303.35, 1024),
    "uni2": (681.39, 1536),
    "virchow": (631.23, 2560),
    "virchow2": (631.24, 2560),
    "h-optimus-0": (1134.77, 1536),
    "h-optimus-1": (1134.77, 1536),
    "h0-mini": (85.74, 768),
    "gigapath": (1134.95, 1536),
    "phikon": (85.80, 768),
    "kaiko-vits16": (21.67, 384),
    "kaiko-vitb16": (85.80, 768),
    "kaiko-vitl14": (303.23, 1024),
}


@pytest.mark.parametrize("name", PATHOLOGY_BACKBONES)
def test_pathology_encoders_have_their_published_shape(name: str) -> None:
    card = PATHOLOGY_BACKBONES[name]
    with torch.device("meta"):
        network = _create(name, card, pretrained=False, tile_px=224)
        output = PooledBackbone(network, card.pooling)(torch.zeros(1, 3, 224, 224))
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert (round(millions, 2), output.shape[1]) == SIZES[name]


def test_a_small_encoder_is_described() -> None:
    network, spec = build_backbone("test_resnet", pretrained=False, tile_px=32)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, spec.n_features)
    assert (spec.name, spec.pretrained, spec.tile_um) == ("test_resnet", False, 112.0)
    vit, spec = build_backbone("test_vit", pretrained=False, tile_px=64)
    assert vit(torch.zeros(2, 3, 64, 64)).shape == (2, spec.n_features)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_come_from_a_local_file(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    source, spec = build_backbone("test_resnet", pretrained=False)
    state = {name: tensor.contiguous() for name, tensor in source.network.state_dict().items()}
    state["fc.weight"] = torch.zeros(3, 3)  # the classifier of a published file
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state}, path)
    else:
        save_file(state, path)
    loaded, again = build_backbone("test_resnet", weights=path)
    assert again.weights_hash == spec.weights_hash
    assert again.weights == str(path)
    other, fresh = build_backbone("test_resnet", pretrained=False)
    assert fresh.weights_hash != spec.weights_hash


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    misfit, pickled = tmp_path / "misfit.pth", tmp_path / "pickled.pth"
    torch.save({"other.weight": torch.zeros(2)}, misfit)
    torch.save({"weights": Path}, pickled)
    broken, nameless = tmp_path / "broken.safetensors", tmp_path / "nameless.pth"
    broken.write_bytes(b"no tensors")
    torch.save(torch.zeros(2), nameless)
    for path, text in (
        (misfit, r"misfit\.pth do not fit backbone 'test_resnet'"),
        (pickled, r"pickled\.pth is not a file of plain tensors"),
        (broken, r"broken\.safetensors is not a file of plain tensors"),
        (nameless, "holds no named tensors"),
        (tmp_path / "none.pth", "there is no file"),
    ):
        with pytest.raises(BackboneError, match=text):
            build_backbone("test_resnet", weights=path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("resnet18", r"'resnet18'.*weights=.*pretrained=False"),
        ("hf-hub:someone/resnet18@v2", r"'hf-hub:someone/resnet18@v2' could not be loaded"),
        ("uni", r"'uni'.*gated \(CC-BY-NC-ND-4\.0\).*huggingface\.co/MahmoodLab/UNI"),
    ],
)
def test_offline_is_said_at_once(name: str, text: str, monkeypatch: Any, tmp_path: Path) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: None)
    begin = time.perf_counter()
    with pytest.raises(BackboneError, match=text) as caught:
        build_backbone(name)
    assert time.perf_counter() - begin < 10
    assert isinstance(caught.value.__cause__, urllib.error.URLError)


@pytest.mark.parametrize("pretrained", [True, False])
def test_unknown_names_list_the_choices(pretrained: bool) -> None:
    with pytest.raises(BackboneError, match=r"'mobilenetv3_smal' is not known.*_small_100'.*uni2"):
        build_backbone("mobilenetv3_smal", pretrained=pretrained)
    with pytest.raises(BackboneError, match="module of your own"):
        build_backbone("custom", pretrained=pretrained)


# Families whose width differs from timm's `num_features`, or that take their tile size otherwise.
@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "levit_128s", "mobilevit_xxs"])
def test_width_and_tile_size_of_other_families(name: str) -> None:
    network, spec = build_backbone(name, pretrained=False, tile_px=64)
    assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, spec.n_features)


def test_tiles_must_be_made_of_whole_patches() -> None:
    with pytest.raises(ValueError, match=r"tile_px=70 .*patch of 16 px; pass tile_px=64 or 80"):
        build_backbone("test_vit", pretrained=False, tile_px=70)


def test_position_embedding_of_a_file_is_resampled(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = timm.create_model("test_vit", num_classes=0, img_size=160)
    save_file(source.state_dict(), tmp_path / "large.safetensors")
    target = timm.create_model("test_vit", num_classes=0, img_size=64)
    load_weights(target, tmp_path / "large.safetensors", "test_vit")
    assert target.pos_embed.shape != source.pos_embed.shape
    assert torch.equal(target.blocks[0].attn.qkv.weight, source.blocks[0].attn.qkv.weight)


def test_class_token_is_taken_where_a_model_gives_all_tokens() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        for name, has_class in (("test_vit2", False), ("test_vit", True)):
            network = timm.create_model(name, num_classes=0, global_pool="").eval()
            tokens = network(images)
            patches = tokens[:, network.num_prefix_tokens :].mean(1)
            wanted = tokens[:, 0] if has_class else patches
            assert torch.allclose(PooledBackbone(network)(images), wanted)
            if has_class:
                both = PooledBackbone(network, "token+mean")(images)
                assert torch.allclose(both, torch.cat([tokens[:, 0], patches], 1))


class Shaped(nn.Module):
    """Gives a vector, a map or tokens of width 5."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * torch.ones(len(x), *self.shape)


@pytest.mark.parametrize("shape", [(5,), (5, 7, 7), (49, 5)], ids=["vector", "map", "tokens"])
def test_own_modules_may_give_vectors_maps_or_tokens(shape: tuple[int, ...]) -> None:
    network, spec = build_backbone(Shaped(shape), tile_px=16)
    assert (spec.name, spec.n_features) == ("custom", 5)
    assert network(torch.zeros(2, 3, 16, 16)).shape == (2, 5)


def test_a_module_of_the_users_own_is_copied_or_refused() -> None:
    own = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4).eval(), torch.nn.AdaptiveAvgPool2d(1)
    )
    before = {name: value.clone() for name, value in own.state_dict().items()}
    network, spec = build_backbone(own, tile_px=8)
    assert [part.training for part in own] == [True, False, True]
    with torch.no_grad():
        for weight in network.parameters():
            weight += 1
    network.train()(torch.rand(4, 3, 8, 8))
    network.requires_grad_(False)
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    assert all(weight.requires_grad for weight in own.parameters())
    assert build_backbone(own, tile_px=8)[1] == spec
    own.last = own(torch.rand(1, 3, 8, 8))
    with pytest.raises(BackboneError, match=r"Sequential cannot be copied.*copy\.deepcopy"):
        build_backbone(own, tile_px=8)
