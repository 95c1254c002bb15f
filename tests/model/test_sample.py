from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rankbygene as rbg


@pytest.mark.parametrize("method", ["rankbygene", "nh2st"])
def test_a_sample_of_large_slides_is_all_that_is_cut_and_seen(
    method: str, make_slides: Any, fit_tiny: Any, tmp_path: Path
) -> None:
    slides = make_slides(3, n_spots=100)
    model = fit_tiny(slides, method=method, model_kwargs={"tile_px": 32, "max_spots": 120})
    counts = model.split_labels.value_counts()
    # NH2ST draws whole patches, of up to 64 spots
    slack = 2 if method == "rankbygene" else 64
    assert abs(counts["train"] + counts["validation"] - 120) <= slack
    assert len(model.tiles) == counts["train"] + counts["validation"]
    # smoothing looks at all spots, and rows keep their place
    whole = rbg.data.ExpressionBank.build(model.frames, model.genes, model.normalization)
    used = np.concatenate(list(model.split.labels.values())) != "unused"
    np.testing.assert_array_equal(model._expression_bank().values, whole.values[used])
    for frame, own in zip(model.frames.values(), model.training_frames.values(), strict=True):
        np.testing.assert_array_equal(
            own.centers, frame.centers[model.split.labels[frame.slide] != "unused"]
        )
    for sdata in slides:
        table = sdata["table"]
        assert np.isfinite(table.obsm[f"X_{method}"]).all()
        assert table.obs[f"{method}_split"].isna().any()
    model.save(tmp_path / "model")
    again = rbg.model.load(tmp_path / "model", slides)
    assert len(again.tiles) == len(model.tiles)
    again.train(max_epochs=1, batch_size=16, accelerator="cpu", enable_progress_bar=False)


def test_a_sample_is_drawn_from_all_over(make_slides: Any) -> None:
    slides = make_slides(2, n_spots=100)
    rbg.model.RankByGene.setup_spatialdata(slides, patient_key="patient")
    settings: dict[str, Any] = {"backbone": "test_resnet", "pretrained": False, "tile_px": 32}
    small = rbg.model.RankByGene(slides, max_spots=50, genes=10, **settings)
    share = {name: np.mean(labels != "unused") for name, labels in small.split.labels.items()}
    assert all(abs(value - 0.25) < 0.01 for value in share.values())
    for name, frame in small.frames.items():
        kept = small.training_frames[name].centers
        assert (np.ptp(kept, axis=0) > 0.8 * np.ptp(frame.centers, axis=0)).all()
    every = rbg.model.RankByGene(slides, max_spots=500, genes=10, **settings)
    assert every.training_frames == every.frames
    with pytest.raises(ValueError, match="at least 1"):
        rbg.model.RankByGene(slides, max_spots=0, genes=10, **settings)
