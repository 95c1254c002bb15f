"""How cost grows with the spots of a slide: set-up, an epoch over a sample, embedding, prediction to disk.

Slides are synthetic: bins of 8 um as of Visium HD, an image of 0.5 um per pixel, sparse counts. Each
size is measured in a process of its own, in processor time. Run with ``python benchmarks/scale.py``;
about an hour on two cores. It writes some gigabytes to ``--folder``.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from _machine import describe_machine, peak_memory_mib, write_record

SIZES = (5_000, 50_000, 500_000)
PITCH_PX, UM_PER_PX, TILE_PX = 16, 0.5, 32
N_GENES, GENES_PER_SPOT, PANEL = 2_000, 40, 250
SAMPLE = 4_096


def make_slide(n_spots: int, path: Path) -> None:
    """Write a slide as a store."""
    import anndata as ad
    import pandas as pd
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Identity

    columns = int(np.ceil(np.sqrt(n_spots)))
    place = np.divmod(np.arange(n_spots), columns)
    centers = np.stack([place[1], place[0]], axis=1) * PITCH_PX + 64.0
    width = columns * PITCH_PX + 128
    image = da.map_blocks(
        _pixels, chunks=((3,), *(da.core.normalize_chunks((512, 512), (width, width)))), dtype="u1"
    )
    table = ad.AnnData(
        counts(n_spots),
        obs=pd.DataFrame(
            {"region": pd.Categorical(["bins"] * n_spots), "bin": np.arange(n_spots)},
            index=[f"bin{i}" for i in range(n_spots)],
        ),
        var=pd.DataFrame(index=[f"gene{i}" for i in range(N_GENES)]),
    )
    in_pixels = {"global": Identity()}
    SpatialData(
        images={"he": Image2DModel.parse(image, c_coords=list("rgb"), transformations=in_pixels)},
        shapes={
            "bins": ShapesModel.parse(
                centers, geometry=0, radius=PITCH_PX / 2, transformations=in_pixels
            )
        },
        tables={
            "table": TableModel.parse(table, region="bins", region_key="region", instance_key="bin")
        },
    ).write(path)


def _pixels(block_info: Any = None) -> Any:
    """Noise on a slow wave of colour, so that tiles differ and compress as a stain does."""
    (_, (top, bottom), (left, right)) = block_info[None]["array-location"]
    rng = np.random.default_rng([top, left])
    y, x = np.mgrid[top:bottom, left:right]
    wave = 40 * np.sin(y / 300) * np.cos(x / 500)
    noise = rng.integers(-20, 20, (3, bottom - top, right - left))
    base = np.array([190, 120, 170])[:, None, None]
    return np.clip(base + wave + noise, 0, 255).astype(np.uint8)


def counts(n_spots: int) -> Any:
    """Sparse counts ``[n_spots, N_GENES]``, some genes far more frequent than others."""
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(0)
    parts = []
    for start in range(0, n_spots, 50_000):
        n = min(50_000, n_spots - start)
        genes = (N_GENES * rng.random((n, GENES_PER_SPOT)) ** 2).astype(np.int32)
        rows = np.repeat(np.arange(n, dtype=np.int32), GENES_PER_SPOT)
        ones = np.ones(genes.size, np.float32)
        parts.append(csr_matrix((ones, (rows, genes.ravel())), shape=(n, N_GENES)))
    from scipy.sparse import vstack

    return vstack(parts, format="csr", dtype=np.float32)


def measure(store: Path) -> dict[str, Any]:
    """Go through the stages on one slide, after a tiny one on which imports and first calls fall."""
    tiny = store.with_name("tiny.zarr")
    make_slide(SAMPLE // 8, tiny)
    go_through(tiny, batch_size=64)
    return go_through(store, batch_size=256)


def go_through(store: Path, *, batch_size: int) -> dict[str, Any]:
    """Time every stage on one slide."""
    import spatialdata

    import rankbygene as rbg

    stages: dict[str, dict[str, float]] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        begin, wall = time.process_time(), time.perf_counter()
        yield
        stages[name] = {
            "cpu_s": round(time.process_time() - begin, 2),
            "wall_s": round(time.perf_counter() - wall, 2),
            "peak_gib": round(peak_memory_mib() / 1024, 2),
        }
        print(f"  {name}: {stages[name]}", file=sys.stderr, flush=True)

    with stage("read the store"):
        sdata = spatialdata.read_zarr(store)
    with stage("set-up"):
        rbg.model.RankByGene.setup_spatialdata(sdata, um_per_px=UM_PER_PX)
        model = rbg.model.RankByGene(
            sdata,
            backbone="test_resnet",
            pretrained=False,
            genes=PANEL,
            tile_um=TILE_PX * UM_PER_PX,
            tile_px=TILE_PX,
            max_spots=SAMPLE,
            tta=1,
            seed=0,
        )
    with stage("smoothed expression of all spots"):
        rbg.data.ExpressionBank.build(model.frames, model.genes, model.normalization)
    with stage("one epoch over a sample"):
        model.train(
            max_epochs=1, batch_size=batch_size, accelerator="cpu", enable_progress_bar=False
        )
    with stage("embedding"):
        latent = model.get_latent_representation()
    _check(latent.shape, (sdata["table"].n_obs, latent.shape[1]))
    del latent
    out = store.with_name(f"out-{store.name}")
    with stage("prediction to disk"):
        model.predict_slide(sdata, shapes_key="bins", um_per_px=UM_PER_PX, out=out)
    found = spatialdata.read_zarr(out)["rankbygene"]
    _check(found.shape, (sdata["table"].n_obs, PANEL))
    return {"n_spots": sdata["table"].n_obs, "stages": stages}


def _check(found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        msg = f"found {found}, not {wanted}"
        raise RuntimeError(msg)


def table(results: list[dict[str, Any]]) -> str:
    """Processor time per 1,000 spots, and peak memory, as Markdown."""
    sizes = [f"{result['n_spots']:,} spots" for result in results]
    lines = [["stage", *sizes], ["---"] + ["---:"] * len(sizes)]
    for name in results[0]["stages"]:
        cells = []
        for result in results:
            stage = result["stages"][name]
            per = 1000 * stage["cpu_s"] / result["n_spots"]
            cells.append(f"{per:.3f} s ({stage['peak_gib']:.2f} GiB)")
        lines.append([name, *cells])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main() -> None:
    """Measure every size in its own process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scale.json"))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    results = []
    for n_spots in arguments.sizes:
        folder = Path(tempfile.mkdtemp(prefix="rankbygene-scale-", dir=arguments.folder))
        try:
            print(f"{n_spots:,} spots", file=sys.stderr, flush=True)
            make_slide(n_spots, folder / "slide.zarr")
            done = subprocess.run(
                [sys.executable, __file__, "--one", str(folder / "slide.zarr")],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            results.append(json.loads(done.stdout.splitlines()[-1]))
        finally:
            shutil.rmtree(folder)
    print(table(results))
    record = {"machine": describe_machine(), "results": results}
    write_record(record, arguments.out)


if __name__ == "__main__":
    main()
