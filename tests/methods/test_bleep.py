"""BLEEP: the loss by hand, and what is retrieved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rankbygene as rbg
from rankbygene.errors import NotTrainedError
from rankbygene.methods.bleep._bank import ReferenceBank
from rankbygene.nn.losses import soft_target_contrast

G = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
S = torch.tensor([[0.8, 0.6], [0.0, 1.0], [1.0, 0.0]])


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 0.582203), (0.5, 0.365334)])
def test_matching_pairs_by_hand(temperature: float, expected: float) -> None:
    eye = torch.eye(2)
    assert float(soft_target_contrast(eye, eye, temperature)) == pytest.approx(expected, abs=1e-6)


def test_both_forms_of_the_targets_by_hand() -> None:
    assert float(soft_target_contrast(G, S)) == pytest.approx(1.188382, abs=1e-6)
    released = soft_target_contrast(G, S, targets="released")
    assert float(released) == pytest.approx(1.188989, abs=1e-6)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(soft_target_contrast(G[order], S[order]), soft_target_contrast(G, S))


def bank(n: int = 30) -> ReferenceBank:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(n, 8, generator=generator)
    return ReferenceBank(
        keys, torch.rand(n, 5, generator=generator), [("a", str(i)) for i in range(n)]
    )


def test_a_profile_is_found_by_its_own_key_and_all_are_the_mean() -> None:
    known = bank()
    found = known.retrieve(known.keys, 1, "mean")
    torch.testing.assert_close(found.expression, known.expression)
    assert torch.equal(found.rows[:, 0], torch.arange(30))
    assert float(found.spread.max()) == 0
    whole = known.retrieve(torch.randn(3, 8), 30, "mean").expression
    torch.testing.assert_close(whole, known.expression.mean(0).expand(3, 5))


def test_weights_are_a_softmax_of_squared_distances() -> None:
    keys = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])  # at 0, 1 and 2 from the query
    known = ReferenceBank(keys, torch.eye(3), [("a", str(i)) for i in range(3)])
    (found,) = known.retrieve(keys[:1], 3, "softmax").expression
    torch.testing.assert_close(
        found, torch.tensor([0.721399, 0.265388, 0.013213]), atol=1e-6, rtol=0
    )


def test_genes_that_were_not_measured_have_no_part() -> None:
    known = bank(4)
    known.expression[:2, 0] = torch.nan
    found = known.retrieve(known.keys[:1], 4, "mean").expression
    torch.testing.assert_close(found[0, 0], known.expression[2:, 0].mean())
    assert bool(known.retrieve(known.keys, 1, "mean").expression.isfinite().all())


def test_only_training_spots_are_retrieved_and_they_are_saved(
    make_slides: Callable[..., list[Any]], tmp_path: Path
) -> None:
    slides = make_slides()
    rbg.model.BLEEP.setup_spatialdata(slides)
    model = rbg.model.BLEEP(
        slides, backbone="test_resnet", pretrained=False, genes=12, tile_px=32, n_neighbors=3
    )
    with pytest.raises(NotTrainedError):
        model.retrieve()
    model.train(max_epochs=1, batch_size=32, accelerator="cpu", enable_progress_bar=False)
    train = {
        f"{slide}/{spot}"
        for (slide, frame), labels in zip(
            model.frames.items(), model.split.labels.values(), strict=True
        )
        for spot, label in zip(frame.obs_names, labels, strict=True)
        if label == "train"
    }
    found = model.retrieve()
    assert {name for ids, _ in found.values() for name in ids.to_numpy().ravel()} <= train
    assert len(model.references.spots) == len(train)
    predicted = model.get_normalized_expression()
    largest = model.references.expression.amax(0).numpy()
    assert all((table.to_numpy() <= largest + 1e-5).all() for table in predicted.values())
    model.save(tmp_path / "model")
    loaded = rbg.model.load(tmp_path / "model")
    again = loaded.retrieve(slides)
    assert all(np.array_equal(ids, again[name][0]) for name, (ids, _) in found.items())
