from __future__ import annotations

import time
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rankbygene.errors import BackboneError
from rankbygene.nn import PATHOLOGY_BACKBONES, build_backbone
from rankbygene.nn._backbone import PooledBackbone, _create

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
    for path, text in (
        (misfit, r"misfit\.pth do not fit backbone 'test_resnet'"),
        (pickled, r"pickled\.pth is not a checkpoint of plain tensors"),
        (tmp_path / "none.pth", "there is no file"),
    ):
        with pytest.raises(BackboneError, match=text):
            build_backbone("test_resnet", weights=path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("resnet18", r"'resnet18'.*weights=.*pretrained=False"),
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


def test_unknown_names_list_the_choices() -> None:
    with pytest.raises(BackboneError, match=r"'resnet_9000'.*uni2"):
        build_backbone("resnet_9000", pretrained=False)


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
