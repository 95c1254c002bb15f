from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TINY_MODEL: dict[str, Any] = {"tile_px": 32}
TINY_TRAIN: dict[str, Any] = {
    "batch_size": 16,
    "accelerator": "cpu",
    "precision": "32-true",
    "enable_progress_bar": False,
}
TINY: dict[str, Any] = {
    "backbone": "test_resnet",
    "pretrained": False,
    "genes": 12,
    "seed": 1,
    "max_epochs": 1,
    "model_kwargs": TINY_MODEL,
    "train_kwargs": TINY_TRAIN,
}


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Refuse connections to other machines: nothing that is tested may need one."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        local = not isinstance(address, tuple) or address[0] in ("127.0.0.1", "::1", "localhost")
        if not local:
            msg = f"a test asked {address} for something"
            raise ConnectionRefusedError(msg)
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        yield


@pytest.fixture(scope="session")
def make_slides() -> Callable[..., list[Any]]:
    """Make small synthetic slides; those of one setting are drawn once and copied."""
    from spatialdata import deepcopy

    import rankbygene as rbg

    drawn: dict[str, list[Any]] = {}

    def make(n_slides: int = 3, **kwargs: Any) -> list[Any]:
        settings: dict[str, Any] = {"n_spots": 40, "n_genes": 30, "seed": 3, **kwargs}
        key = repr((n_slides, sorted(settings.items())))
        if key not in drawn:
            drawn[key] = rbg.datasets.synthetic(n_slides=n_slides, **settings)
        return [deepcopy(sdata) for sdata in drawn[key]]

    return make


@pytest.fixture(scope="session")
def fit_tiny() -> Callable[..., Any]:
    """Fit a very small model."""
    import rankbygene as rbg

    def fit(sdata: Any, **kwargs: Any) -> Any:
        return rbg.model.fit(sdata, **(TINY | kwargs))

    return fit


@pytest.fixture(scope="session")
def slides(make_slides: Callable[..., list[Any]]) -> list[Any]:
    """Three annotated slides; tests must not change them."""
    return make_slides()


@pytest.fixture(scope="session")
def model(slides: list[Any], fit_tiny: Callable[..., Any]) -> Any:
    """A model trained for two epochs on the session's slides; tests must not train it."""
    return fit_tiny(slides, max_epochs=2)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real tissue; tests that need it are skipped, with the reason, without it."""
    value = os.environ.get("RANKBYGENE_DATA")
    if not value:
        pytest.skip("RANKBYGENE_DATA is not set: tests on real tissue are skipped")
    path = Path(value).resolve()
    if not path.is_dir():
        pytest.fail(f"RANKBYGENE_DATA={value} is not a folder")
    return path
