from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import rankbygene as rbg
from rankbygene.errors import InputValueError
from rankbygene.module import RankByGeneModule, load_released_checkpoint
from rankbygene.nn import build_backbone

HEAD = {"projection": "projection", "residual": "fc", "norm": "layer_norm"}


def make_module(n_genes: int = 7, seed: int = 0) -> RankByGeneModule:
    torch.manual_seed(seed)
    network, spec = build_backbone("test_resnet", pretrained=False, tile_px=32)
    return RankByGeneModule(network, n_features=spec.n_features, n_genes=n_genes, head="frozen")


def released_layout(module: RankByGeneModule) -> dict[str, Any]:
    """The module's tensors under the names that the authors' training script gives them."""
    state = {"criterion2.logit_scale": torch.ones([])}
    for side in ("student", "teacher"):
        branch = getattr(module, side)
        for name, tensor in branch.backbone.network.state_dict().items():
            state[f"image_encoder.{side}_backbone.{name}"] = tensor
        for ours, theirs in HEAD.items():
            for name, tensor in getattr(branch.projection, ours).state_dict().items():
                state[f"image_encoder.{side}_head.{theirs}.{name}"] = tensor
    for ours, theirs in HEAD.items():
        for name, tensor in getattr(module.gene_encoder, ours).state_dict().items():
            state[f"gene_encoder.{theirs}.{name}"] = tensor
    return {"epoch": 3, "state_dict": state}


def test_encoders_are_taken_over_exactly(tmp_path: Path) -> None:
    source, target = make_module(seed=1), make_module(seed=2)
    torch.save(released_layout(source), tmp_path / "epoch=99.ckpt")
    load_released_checkpoint(tmp_path / "epoch=99.ckpt", target)
    images, expression = torch.rand(2, 3, 32, 32), torch.randn(2, 7)
    for module in (source, target):
        module.eval()
    for network in ("student", "teacher"):
        a, b = (m.image_features(images, network) for m in (source, target))  # type: ignore[arg-type]
        assert torch.equal(a, b)
        assert torch.equal(source.project(a, network), target.project(b, network))  # type: ignore[arg-type]
    assert torch.equal(source.gene_features(expression), target.gene_features(expression))


def test_foreign_and_misfit_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": {"encoder.weight": torch.zeros(2)}}, path)
    with pytest.raises(InputValueError, match=r"model\.ckpt is not a checkpoint.*encoder\.weight"):
        load_released_checkpoint(path, make_module())
    torch.save(released_layout(make_module(n_genes=9)), path)
    with pytest.raises(InputValueError, match=r"do not fit.*gene panel"):
        load_released_checkpoint(path, make_module())


def test_a_model_continues_from_a_checkpoint(tmp_path: Path, make_slides: Any) -> None:
    slides = make_slides(2)
    rbg.model.RankByGene.setup_spatialdata(slides)
    settings = {
        "backbone": "test_resnet",
        "pretrained": False,
        "tile_px": 32,
        "genes": 7,
        "seed": 0,
    }
    model = rbg.model.RankByGene(slides, head="frozen", **settings)
    torch.save(released_layout(make_module(seed=3)), tmp_path / "m.ckpt")
    model.load_released(tmp_path / "m.ckpt", head_kwargs={"max_epochs": 2})
    model.annotate()
    assert "head_train_loss" in model.history
    assert torch.isfinite(torch.from_numpy(slides[0]["table"].obsm["X_rankbygene"])).all()
    joint = rbg.model.RankByGene(slides, **settings)
    with pytest.raises(ValueError, match="head='frozen'"):
        joint.load_released(tmp_path / "m.ckpt")
