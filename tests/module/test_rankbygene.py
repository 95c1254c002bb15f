from __future__ import annotations

import pytest
import torch
from torch import nn

from rankbygene.module import RankByGeneModule


def make_module(head: str = "joint") -> RankByGeneModule:
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    module = RankByGeneModule(
        backbone,
        n_features=6,
        n_genes=4,
        n_latent=5,
        head=head,
        n_hidden=8,  # type: ignore[arg-type]
    )
    module.set_expression_stats(torch.arange(4.0), torch.full((4,), 2.0))
    return module.eval()


@pytest.mark.parametrize("head", ["joint", "frozen"])
def test_the_teacher_starts_as_a_copy_with_its_heads(head: str) -> None:
    module = make_module(head)
    student, teacher = module.student.state_dict(), module.teacher.state_dict()
    assert student.keys() == teacher.keys()
    assert any(name.startswith("projection") for name in teacher)
    assert any(name.startswith("predictor") for name in teacher)
    assert all(torch.equal(student[name], teacher[name]) for name in student)
    assert not any(parameter.requires_grad for parameter in module.teacher.parameters())
    module.train()
    assert module.student.training
    assert not module.teacher.training


def test_unmeasured_genes_enter_as_their_mean() -> None:
    module = make_module()
    expression = torch.randn(3, 4)
    measured = torch.tensor([[True, True, False, True]]).expand(3, 4)
    filled = torch.where(measured, expression, module.expression_mean)
    assert torch.allclose(module.gene_features(expression, measured), module.gene_features(filled))
    changed = expression.clone()
    changed[:, 2] = 99
    assert torch.equal(
        module.gene_features(changed, measured), module.gene_features(expression, measured)
    )


def test_eight_views_do_not_depend_on_the_orientation() -> None:
    module = make_module()
    images = torch.randint(0, 256, (2, 3, 17, 17), dtype=torch.uint8)
    with torch.inference_mode():
        features, expression = module.represent(images)
        for turned in (images.flip(-1), images.rot90(1, (-2, -1)), images.transpose(-1, -2)):
            again, predicted = module.represent(turned)
            assert torch.allclose(features, again, atol=1e-5)
            assert torch.allclose(expression, predicted, atol=1e-5)
        single, _ = module.represent(images, tta=1)
        turned_single, _ = module.represent(images.flip(-1), tta=1)
    assert torch.allclose(single, module.image_features(images))
    assert not torch.allclose(single, turned_single, atol=1e-4)


def test_predictions_are_on_the_training_scale() -> None:
    module = make_module()
    features = torch.randn(2, 6)
    standardized = module.teacher.predictor(features)
    predicted = module.predict_from_features(features)
    assert torch.allclose(predicted, standardized * 2 + torch.arange(4.0))
    assert torch.allclose(module.standardize(predicted), standardized, atol=1e-6)


def test_bytes_and_floats_are_the_same_image() -> None:
    module = make_module()
    images = torch.randint(0, 256, (2, 3, 9, 9), dtype=torch.uint8)
    assert torch.allclose(
        module.image_features(images), module.image_features(images / 255), atol=1e-6
    )
    with pytest.raises(ValueError, match="allowed are 'joint', 'frozen'"):
        make_module("other")
