from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rankbygene as rbg
from rankbygene.data import TileReader
from rankbygene.train import RankByGenePlan
from rankbygene.train._grad_cache import Tiles

CONTEXT: dict[str, Any] = {"tile_px": 32, "context_um": [224.0]}


@pytest.fixture(scope="module")
def wide(slides: list[Any], fit_tiny: Any) -> Any:
    return fit_tiny(slides, model_kwargs=CONTEXT | {"statistics": True}, key_added="wide")


def test_widths_are_stacked_around_one_centre(wide: Any) -> None:
    frame = next(iter(wide.frames.values()))
    rows = np.array([5, 1, 30])
    both = TileReader(frame, tile_um=(112.0, 224.0), tile_px=32).read(rows)
    alone = [TileReader(frame, tile_um=width, tile_px=32).read(rows) for width in (112.0, 224.0)]
    np.testing.assert_array_equal(both, np.concatenate(alone, axis=1))
    np.testing.assert_array_equal(wide.tiles[rows], both)


def test_features_of_all_widths_are_joined(
    wide: Any, slides: list[Any], make_slides: Any, tmp_path: Path
) -> None:
    (new,) = make_slides(1, seed=31)
    latent = wide.get_latent_representation(new)
    assert latent.shape == (40, 2 * wide.backbone.n_features)
    tiles = torch.from_numpy(wide.tiles[np.arange(4)])
    with torch.no_grad():
        joined = wide.module.image_features(tiles)
        parts = [wide.module.image_features(tiles[:, i : i + 3]) for i in (0, 3)]
    torch.testing.assert_close(joined, torch.cat(parts, dim=1))
    wide.save(tmp_path / "model")
    again = rbg.model.RankByGene.load(tmp_path / "model")
    assert again.tile_widths == (112.0, 224.0)
    np.testing.assert_array_equal(again.get_latent_representation(new), latent)
    written = slides[0]["table"].uns["wide_params"]["tile"]["widths_um"]
    assert [float(width) for width in written] == [112.0, 224.0]


def test_tiles_of_a_spot_are_turned_and_coloured_alike(wide: Any) -> None:
    seen: list[torch.Tensor] = []

    def note(tiles: torch.Tensor, *_: Any, groups: torch.Tensor, **__: Any) -> torch.Tensor:
        seen.append(groups)
        return tiles + groups.view(-1, 1, 1, 1)

    plan = RankByGenePlan(wide.module)
    spots = Tiles(torch.zeros(3, 6, 4, 4), torch.arange(3), 3)
    view = plan._view(note, spots, plan.generator)
    assert seen[0].tolist() == [0, 0, 1, 1, 2, 2]
    assert view[:, :, 0, 0].tolist() == [[0.0] * 6, [1.0] * 6, [2.0] * 6]


def test_the_widest_tile_must_fit_the_image(slides: list[Any]) -> None:
    with pytest.raises(ValueError, match="tile"):
        rbg.model.RankByGene(
            slides, backbone="test_resnet", pretrained=False, tile_px=32, context_um=[0.5]
        )
