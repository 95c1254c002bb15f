"""Odd slides, legal and illegal, through reading, cutting, normalising and fitting."""

from __future__ import annotations

import hashlib
import re
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, seed, settings

import rankbygene as rbg
from _faults.outcome import FINE, FOREIGN, REFUSED, WRONG, Tally
from rankbygene.errors import RankByGeneError
from rankbygene.testing import FAULTS, IllegalSlide, LegalSlide, illegal_slides, legal_slides

TINY: dict[str, Any] = {
    "backbone": "test_resnet",
    "pretrained": False,
    "genes": 2,
    "max_epochs": 1,
    "train_kwargs": {
        "batch_size": 4, "accelerator": "cpu", "precision": "32-true", "enable_progress_bar": False,
    },
}  # fmt: skip


def hold(condition: Any, text: str) -> None:
    """Say what is wrong."""
    if not condition:
        raise AssertionError(text)


def check_legal(slide: LegalSlide) -> None:
    """Read a legal slide, and compare level, tiles, scale and values with the right ones."""
    frames = rbg.data.resolve(slide.sdata, rbg.data.SpatialSetup(**slide.setup))
    hold([frame.region for frame in frames] == list(slide.tiles), "regions")
    for frame in frames:
        reader = rbg.data.TileReader(frame, tile_um=slide.tile_um, tile_px=slide.tile_px)
        hold(reader.plan.level == slide.level, f"level {reader.plan.level}, not {slide.level}")
        np.testing.assert_allclose(reader.plan.um_per_px, slide.um_per_px * 2**slide.level)
        np.testing.assert_array_equal(reader.read(), slide.tiles[frame.region])
        counts = slide.counts[frame.region]
        normalization = rbg.data.Normalization(neighbourhood="none")
        # In another order than the table's.
        genes = list(frame.table.var_names)[::-1]
        values, measured = rbg.data.expression_matrix(frame, genes, normalization)
        right = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)[:, ::-1]
        hold(measured.all(), "genes are said not to be measured")
        np.testing.assert_allclose(values, right, rtol=1e-5)


def check_illegal(slide: IllegalSlide) -> str:
    """Read an illegal slide; give the error that it got, nothing if it was the right one."""
    try:
        for frame in rbg.data.resolve(slide.sdata, rbg.data.SpatialSetup(**slide.setup)):
            rbg.data.TileReader(frame, tile_um=slide.tile_um, tile_px=slide.tile_px)
    except slide.error as error:
        found = re.search(slide.match, str(error))
        return "" if found else f"{slide.fault}: says {error}"
    except Exception as error:  # noqa: BLE001
        return f"{slide.fault}: {type(error).__name__}: {error}"
    return f"{slide.fault}: nothing was raised"


def check_fit(slide: LegalSlide) -> str:
    """Fit a legal slide: its own contents stay, and results have the form that is promised."""
    before = contents(slide.sdata)
    said = {key: slide.setup[key] for key in slide.setup if key != "layer"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = rbg.model.fit(
                slide.sdata,
                layer=slide.setup.get("layer"),
                model_kwargs={
                    "tile_px": slide.tile_px, "tile_um": slide.tile_um, "validation_size": 0.0,
                },
                **said,
                **TINY,
            )  # fmt: skip
    except RankByGeneError as error:
        outcome = f"refused: {error}"
    else:
        table = slide.sdata["table"]
        n = sum(map(len, slide.tiles.values()))
        latent = table.obsm["X_rankbygene"]
        hold(np.isfinite(latent).all() and len(latent) == n, "representations")
        hold(int(table.var["rankbygene_panel"].sum()) == len(model.genes) == 2, "panel")
        outcome = ""
    hold(contents(slide.sdata) == before, "the slide's own contents were changed")
    return outcome


def contents(sdata: Any) -> str:
    """Tell all that a slide holds, but for the keys of results."""
    digest = hashlib.sha256()
    for name, image in sorted(sdata.images.items()):
        levels = image.children.values() if hasattr(image, "children") else [image]
        for level in levels:
            array = level if not hasattr(level, "data_vars") else next(iter(level.values()))
            digest.update(name.encode() + np.ascontiguousarray(array.to_numpy()).tobytes())
    for name, shapes in sorted(sdata.shapes.items()):
        digest.update(name.encode() + repr(shapes.to_wkb().to_csv()).encode())
    for name, labels in sorted(sdata.labels.items()):
        digest.update(name.encode() + np.ascontiguousarray(labels.to_numpy()).tobytes())
    for name, table in sorted(sdata.tables.items()):
        digest.update(name.encode())
        for key, frame in (("obs", table.obs), ("var", table.var)):
            own = frame[[column for column in frame if not str(column).startswith("rankbygene")]]
            digest.update(key.encode() + own.to_csv().encode())
        for layer in (None, *(key for key in table.layers if key not in ("rankbygene", None))):
            matrix = table.X if layer is None else table.layers[layer]
            digest.update(f"{layer}".encode() + dense(matrix).tobytes())
    return digest.hexdigest()


def dense(matrix: Any) -> Any:
    """Give any kind of matrix as a plain array."""
    for method in ("compute", "to_memory", "toarray"):
        matrix = getattr(matrix, method)() if hasattr(matrix, method) else matrix
    return np.asarray(matrix)


def run_inputs(*, n_legal: int, n_illegal: int, n_fits: int, start: int) -> dict[str, Tally]:
    """Draw and check odd slides, so many of each kind; ``n_illegal`` for each fault."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tallies = {
            "legal slides": Tally(),
            "illegal slides": Tally(),
            "fits of odd slides": Tally(),
        }
        in_memory, on_disk = n_legal - n_legal // 5, n_legal // 5
        draws: list[tuple[str, Any, Callable[[Any], Any], int]] = [
            ("legal slides", legal_slides(), check_legal, in_memory),
            ("legal slides", legal_slides(folder), check_legal, on_disk),
            ("fits of odd slides", legal_slides(max_spots=12), check_fit, n_fits),
            *(
                ("illegal slides", illegal_slides(fault), check_illegal, n_illegal)
                for fault in FAULTS
            ),
        ]
        for kind, strategy, check, n in draws:
            if n:
                _draw(strategy, check, n, tallies[kind], start)
    return tallies


def _draw(strategy: Any, check: Callable[[Any], Any], n: int, tally: Tally, start: int) -> None:
    """Count what a check says of so many draws; hypothesis itself would stop at the first failure."""

    @settings(max_examples=n, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @seed(start)
    @given(strategy)
    def draw(slide: Any) -> None:
        text = ""
        try:
            text = check(slide) or ""
        except AssertionError as error:
            tally.add(WRONG, f"{getattr(slide, 'oddities', '')} {error}"[:600])
            return
        except Exception as error:  # noqa: BLE001
            tally.add(FOREIGN, f"{type(error).__name__}: {error}"[:600])
            return
        if text and not text.startswith("refused"):
            tally.add(FOREIGN, text[:600])
        else:
            tally.add(REFUSED if text or isinstance(slide, IllegalSlide) else FINE)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        draw()
