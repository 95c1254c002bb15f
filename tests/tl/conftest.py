from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import rankbygene as rbg


@pytest.fixture(scope="session")
def patients(make_slides: Any) -> list[Any]:
    """Three slides of three patients; tests must not change them."""
    slides: list[Any] = make_slides(3, n_patients=3)
    return slides


@pytest.fixture(scope="session")
def cross_validate() -> Callable[..., Any]:
    """Cross-validate very small models."""

    def run(sdatas: Any, method: Any = "rankbygene", **kwargs: Any) -> Any:
        settings: dict[str, Any] = {
            "backbone": "test_resnet",
            "pretrained": False,
            "tile_px": 32,
            "genes": 8,
            "max_epochs": 1,
            "baselines": ("mean", "ridge"),
            "train_kwargs": {"batch_size": 16, "accelerator": "cpu", "precision": "32-true"},
        }
        return rbg.tl.cross_validate(sdatas, method, **(settings | kwargs))

    return run
