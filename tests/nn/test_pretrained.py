"""An encoder with published weights, from a file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import rankbygene as rbg
from rankbygene.errors import BackboneError
from rankbygene.nn import build_backbone

NAME = "tf_efficientnet_lite0"
FILE = Path(os.environ.get("RANKBYGENE_WEIGHTS", "")) / f"{NAME}.in1k.safetensors"

pytestmark = pytest.mark.skipif(
    not FILE.is_file(), reason=f"RANKBYGENE_WEIGHTS does not name a folder with {FILE.name}"
)


def test_published_weights_are_loaded_whole_and_tell_tissues_apart() -> None:
    network, spec = build_backbone(NAME, weights=FILE, tile_px=128)
    again, same = build_backbone(NAME, weights=FILE, tile_px=128)
    assert spec.weights_hash == same.weights_hash
    assert spec.weights_hash != build_backbone(NAME, pretrained=False)[1].weights_hash
    assert all(
        torch.equal(a, b)
        for a, b in zip(network.state_dict().values(), again.state_dict().values(), strict=True)
    )
    y, x = np.mgrid[:128, :128]
    stripes = np.stack([(x // 8 % 2) * 255] * 3).astype(np.float32) / 255
    checks = np.stack([((x // 8 + y // 8) % 2) * 255] * 3).astype(np.float32) / 255
    with torch.no_grad():
        one, other, turned = network.eval()(
            torch.from_numpy(np.stack([stripes, checks, np.ascontiguousarray(stripes[:, ::-1])]))
        )
    # A picture is more like its mirror image than like another one.
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(one, turned, dim=0) > cosine(one, other, dim=0)


def test_a_model_trains_from_them_and_names_the_file_alone(
    make_slides: object, tmp_path: Path
) -> None:
    slides = make_slides(2)  # type: ignore[operator]
    rbg.model.RankByGene.setup_spatialdata(slides)
    model = rbg.model.RankByGene(
        slides, backbone=NAME, weights=FILE, fine_tune="none", genes=8, tile_px=32, tta=1, seed=0
    )
    model.train(max_epochs=1, batch_size=16, accelerator="cpu", enable_progress_bar=False)
    model.save(tmp_path / "m")
    loaded = rbg.model.load(tmp_path / "m")
    assert loaded.backbone.weights == FILE.name
    before, after = (m.get_normalized_expression(slides[0]) for m in (model, loaded))
    np.testing.assert_array_equal(before, after)


def test_weights_of_another_encoder_are_refused() -> None:
    with pytest.raises(BackboneError, match="do not fit"):
        build_backbone("resnet18", weights=FILE)
