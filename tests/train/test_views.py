from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from rankbygene.nn import orientations
from rankbygene.train import strong_view, weak_view
from rankbygene.train._views import color_jitter, random_crop, random_kept_view


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_orientations_are_eight_distinct_and_start_with_the_image() -> None:
    image = torch.rand(1, 3, 4, 4, generator=seeded())
    views = list(orientations(image))
    assert torch.equal(views[0], image)
    assert len({tuple(view.flatten().tolist()) for view in views}) == len(views) == 8


def test_weak_view_only_turns() -> None:
    images = torch.rand(32, 3, 6, 6, generator=seeded())
    views = weak_view(images, seeded(1))
    for image, view in zip(images, views, strict=True):
        assert any(torch.equal(view, known[0]) for known in orientations(image[None]))


@pytest.mark.parametrize("value", [0.0, 1.0, None], ids=["black", "white", "saturated"])
def test_strong_view_stays_in_range_at_the_extremes(value: float | None) -> None:
    if value is None:
        images = torch.randint(0, 2, (256, 3, 8, 8), generator=seeded()).float()
    else:
        images = torch.full((256, 3, 8, 8), value)
    view = strong_view(images, seeded(1), jitter=1.0)
    assert torch.isfinite(view).all()
    assert 0 <= float(view.min()) <= float(view.max()) <= 1


@pytest.mark.parametrize("view", [weak_view, strong_view, partial(strong_view, crop=(0.3, 0.9))])
def test_an_image_does_not_depend_on_the_others(view: Callable[..., torch.Tensor]) -> None:
    images = torch.rand(16, 3, 8, 8, generator=seeded())
    others = images.clone()
    others[1:] = torch.rand(15, 3, 8, 8, generator=seeded(5))
    before = images.clone()
    first, second = view(images, seeded(2)), view(others, seeded(2))
    assert torch.allclose(first[0], second[0], atol=1e-6)
    assert not torch.allclose(first[1:], second[1:])
    assert torch.equal(images, before)


def test_jitter_without_strength_changes_nothing() -> None:
    images = torch.rand(8, 3, 8, 8, generator=seeded())
    same = color_jitter(images, seeded(), brightness=0, contrast=0, saturation=0, hue=0)
    assert torch.allclose(same, images, atol=1e-6)


def test_grayscale_always_leaves_one_channel() -> None:
    images = torch.rand(8, 3, 8, 8, generator=seeded())
    view = strong_view(images, seeded(), grayscale=1.0)
    assert torch.equal(view[:, 0], view[:, 1])
    assert torch.equal(view[:, 0], view[:, 2])


def test_the_whole_is_a_crop() -> None:
    images = torch.rand(8, 3, 8, 8, generator=seeded())
    assert torch.allclose(random_crop(images, seeded(), (1.0, 1.0)), images, atol=1e-5)


def test_a_crop_is_a_square_of_the_asked_area_inside_the_image() -> None:
    # Each pixel holds its own coordinates, so that a crop tells where it was cut.
    px = 64
    place = (torch.arange(px) + 0.5) / px
    images = torch.stack([place.expand(px, px), place[:, None].expand(px, px)])
    crops = random_crop(images.expand(500, 2, px, px), seeded(), (0.25, 0.81))
    x, y = crops[:, 0, 0], crops[:, 1, :, 0]
    width, height = ((line[:, -1] - line[:, 0]) * px / (px - 1) for line in (x, y))
    # At the border the outermost half pixel is filled up.
    assert torch.allclose(width, height, atol=1 / px)
    assert float(width.min() ** 2) == pytest.approx(0.25, abs=0.02)
    assert float(width.max() ** 2) == pytest.approx(0.81, abs=0.02)
    for line in (x, y):
        left, right = line[:, 0] - width / (2 * px), line[:, -1] + width / (2 * px)
        assert float(left.min()) > -1 / px
        assert float(right.max()) < 1 + 1 / px
        assert float(left.min()) < 0.02
        assert float(right.max()) > 0.98


@pytest.mark.parametrize("value", ["orientation", "colour"])
def test_images_of_a_group_are_treated_alike(value: str) -> None:
    one = torch.rand(3, 8, 8, generator=seeded())
    images, groups = one.repeat(64, 1, 1, 1), torch.arange(64) // 4
    if value == "orientation":
        view = strong_view(images, seeded(1), jitter=0, grayscale=0, groups=groups)
    else:
        view = color_jitter(images, seeded(1), groups=groups)
    by_group = view.unflatten(0, (16, 4))
    assert torch.equal(by_group, by_group[:, :1].expand_as(by_group))
    assert len({tuple(image.flatten().tolist()) for image in by_group[:, 0]}) > 4


def test_bytes_and_numbers_give_the_same_views() -> None:
    images = torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8)
    for view in (strong_view, weak_view):
        of_bytes, of_floats = (view(one, seeded(2)) for one in (images, images.float() / 255))
        if of_bytes.dtype == torch.uint8:
            of_bytes = of_bytes.float() / 255
        assert torch.equal(of_bytes, of_floats)


def test_kept_views_are_drawn_equally_and_alike_within_a_group() -> None:
    kept = torch.arange(8.0).expand(800, 8)
    rows = torch.arange(800.0)[:, None].expand(800, 8)
    view, row = random_kept_view([kept, rows], seeded())
    assert torch.equal(row, torch.arange(800.0))
    assert int(view.long().bincount(minlength=8).min()) > 65
    groups = torch.arange(100).repeat_interleave(8)
    (alike,) = random_kept_view([kept], seeded(), groups)
    assert all(len(one.unique()) == 1 for one in alike.split(8))
    assert len(alike.unique()) == 8
