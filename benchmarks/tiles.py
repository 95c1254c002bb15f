"""Processor time and memory of reading tiles, beside SpatialData's own dataset and bare decoding.

Run with ``python benchmarks/tiles.py``. It writes synthetic H&E-like images (2 GB, removed
afterwards), reads tiles of 2,000 spots from each, and prints a table. Times are those of the
processor (``time.process_time``), best of several rounds in which the ways of reading take turns, so
that ratios suffer little from what else the machine does. Files are in the page cache, except
where a row says cold.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import spatialdata as sd
import zarr
from _machine import describe_machine, peak_memory_mib, write_record
from numcodecs import Zstd
from scipy import ndimage
from spatialdata.models import Image2DModel, ShapesModel
from spatialdata.transformations import Identity, Scale
from xarray import DataTree

from rankbygene.data import TileBank, TileReader, frame_from_shapes, stream_tiles
from rankbygene.data.batches._orders import in_storage_order, shuffled_in_windows

SIDE, UM_PER_PX = 224, 0.5
TILE: dict[str, Any] = {"tile_um": SIDE * UM_PER_PX, "tile_px": SIDE}
CHUNKS = ((3, 256, 256), (3, 512, 512), (3, 1024, 1024), (1, 4096, 4096))
PARTS = ("reading", "planning", "memory")
TARGETS = {256: 20, 512: 50, 4096: 200}


def picture(size: int, seed: int = 0) -> np.ndarray:
    """Draw nuclei on a stained background with noise, ``[3, size, size]``.

    Nuclei repeat every 2,500 px; noise does not, so that no chunk compresses better for being large.
    """
    n = min(size, 2500)
    rng = np.random.default_rng(seed)
    nuclei = np.zeros((n, n), np.float32)
    nuclei[tuple(rng.integers(0, n, (2, n * n // 400)))] = 1
    nuclei = ndimage.gaussian_filter(nuclei, 4)
    nuclei = np.clip(nuclei / nuclei.max() * 2.5, 0, 1)
    pixels = np.empty((3, size, size), np.uint8)
    for channel, (glass, dye) in enumerate(zip((232, 168, 205), (92, 60, 140), strict=True)):
        stain = np.tile(glass + (dye - glass) * nuclei, (1, -(-size // n)))[:, :size]
        for top in range(0, size, n):
            strip = pixels[channel, top : top + n]
            noise = rng.standard_normal((len(strip), size), dtype=np.float32)
            strip[:] = np.clip(stain[: len(strip)] + 4 * noise, 0, 255)
    return pixels


def hexagonal(size: int, n: int, seed: int = 0) -> np.ndarray:
    """Jittered hexagonal grid of ``n`` spots in random order, all tiles inside the image."""
    pitch = (size - 2 * SIDE) / np.sqrt(n * np.sqrt(3) / 2) * 0.98
    rows = np.arange(SIDE, size - SIDE, pitch * np.sqrt(3) / 2)
    points = [
        (x + (i % 2) * pitch / 2, y)
        for i, y in enumerate(rows)
        for x in np.arange(SIDE, size - SIDE - pitch / 2, pitch)
    ]
    rng = np.random.default_rng(seed)
    moved = np.array(points) + rng.normal(0, min(5, pitch / 20), (len(points), 2))
    return rng.permutation(moved)[:n]


def slide_of(pixels: Any, points: np.ndarray, **image: Any) -> sd.SpatialData:
    """Make an object with an image and circles on it."""
    systems = {"global": Identity(), "um": Scale([UM_PER_PX] * 2, axes=("x", "y"))}
    parsed = Image2DModel.parse(
        pixels, dims=("c", "y", "x"), c_coords=["r", "g", "b"], transformations=systems, **image
    )
    spots = ShapesModel.parse(points, geometry=0, radius=55, transformations=systems)
    return sd.SpatialData(images={"he": parsed}, shapes={"spots": spots})


def best(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds of the processor that each way takes at best; they take turns."""
    seconds = dict.fromkeys(ways, np.inf)
    for _ in range(rounds):
        for name, way in ways.items():
            gc.collect()
            begin = time.process_time()
            way()
            seconds[name] = min(seconds[name], time.process_time() - begin)
    return seconds


def drain(reader: TileReader) -> None:
    for _ in reader.stream():
        pass


def touched(array: zarr.Array, reader: TileReader) -> set[tuple[int, int]]:
    """Rows and columns of the chunks that some tile touches."""
    _, height, width = array.chunks
    return {
        (row, column)
        for y0, x0 in zip(reader.plan.y0.tolist(), reader.plan.x0.tolist(), strict=True)
        for row in range(y0 // height, (y0 + SIDE - 1) // height + 1)
        for column in range(x0 // width, (x0 + SIDE - 1) // width + 1)
    }


def read_with_zarr(store: Path, reader: TileReader) -> None:
    """Read every chunk that some tile touches, once, with zarr alone."""
    array = zarr.open_array(store / "images/he/s0", mode="r")
    depth, height, width = array.chunks
    for row, column in touched(array, reader):
        rows = slice(row * height, (row + 1) * height)
        for first in range(0, 3, depth):
            array[first : first + depth, rows, column * width : (column + 1) * width]


def decode(store: Path, reader: TileReader) -> None:
    """Decompress the file of every chunk that some tile touches, once, and nothing else."""
    array, codec = zarr.open_array(store / "images/he/s0", mode="r"), Zstd()
    for row, column in touched(array, reader):
        for channel in range(3 // array.chunks[0]):
            codec.decode((store / f"images/he/s0/c/{channel}/{row}/{column}").read_bytes())


def reference(slide: sd.SpatialData, n: int) -> Callable[[], None]:
    """Read ``n`` tiles with ``ImageTilesDataset``."""
    from spatialdata.dataloader import ImageTilesDataset

    # The dataset changes the object that it is given.
    dataset = ImageTilesDataset(
        sd.deepcopy(slide),
        regions_to_images={"spots": "he"},
        regions_to_coordinate_systems={"spots": "global"},
        tile_dim_in_units=SIDE,
    )

    def read() -> None:
        for i in range(n):
            image = next(iter(dataset[i].images.values()))
            level = image["scale0"]["image"] if isinstance(image, DataTree) else image
            np.asarray(level.data)

    return read


def compare(folder: Path, size: int, n: int, n_reference: int, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of the processor per tile for every layout of chunks."""
    pixels, points, records = picture(size), hexagonal(size, n), []
    for chunks in CHUNKS:
        store = folder / f"chunks{chunks[1]}.zarr"
        lazy = da.from_array(pixels, chunks=chunks)
        slide_of(lazy, points, scale_factors=[2, 2], chunks=chunks).write(store)
        slide = sd.read_zarr(store)
        reader = TileReader(frame_from_shapes(slide, "spots"), **TILE)
        windows = zip(reader.plan.y0, reader.plan.x0, reader.read(), strict=True)
        exact = all(np.array_equal(pixels[:, y : y + SIDE, x : x + SIDE], t) for y, x, t in windows)
        ways: dict[str, Callable[[], Any]] = {
            "ours": lambda reader=reader: drain(reader),
            "zarr": lambda store=store, reader=reader: read_with_zarr(store, reader),
            "decode": lambda store=store, reader=reader: decode(store, reader),
        }
        seconds = best(ways, rounds)
        theirs = best({"theirs": reference(slide, n_reference)}, max(1, rounds - 1))["theirs"]
        ours, bare, with_zarr = (1000 * seconds[way] / n for way in ("ours", "decode", "zarr"))
        theirs *= 1000 / n_reference
        records.append(
            {
                "chunks": list(chunks),
                "ms_per_tile": round(ours, 4),
                "ms_decoding_alone": round(bare, 4),
                "ms_zarr_alone": round(with_zarr, 4),
                "ms_image_tiles_dataset": round(theirs, 3),
                "times_faster": round(theirs / ours, 1),
                "times_decoding": round(ours / bare, 2),
                "target_times_faster": TARGETS.get(chunks[1]),
                "pixel_exact": exact,
            }
        )
        print(json.dumps(records[-1]), flush=True)
    return records


def bank(folder: Path, n: int, theirs: float, rounds: int) -> dict[str, Any]:
    """Milliseconds of the processor per tile from banks in memory and in files."""
    frame = frame_from_shapes(sd.read_zarr(folder / "chunks512.zarr"), "spots")
    order = np.random.default_rng(0).permutation(n)

    def epoch(tiles: TileBank, order: np.ndarray) -> Callable[[], None]:
        return over_batches(lambda i: tiles[order[i : i + 64]])

    def over_batches(act: Callable[[int], Any]) -> Callable[[], None]:
        def run() -> None:
            for start in range(0, n, 64):
                act(start)  # and let go of the batch, as training does

        return run

    cache: dict[str, Any] = {"frames": {"slide": frame}, **TILE, "cache_dir": folder / "cache"}
    begin = time.process_time()
    files = TileBank.build(**cache)
    built = time.process_time() - begin
    memory = TileBank.build({"slide": frame}, **TILE)
    stored = in_storage_order(files, np.arange(n))
    windows = shuffled_in_windows(stored, n // 8, np.random.default_rng(0))
    ways: dict[str, Callable[[], Any]] = {
        "memory, shuffled": epoch(memory, order),
        "file, shuffled": epoch(files, order),
        "file, windows": epoch(files, windows),
        "open and verify": lambda: TileBank.build(**cache),
        # The least that handing over a batch takes: one copy of its bytes.
        "copy of the bytes": over_batches(lambda i: memory._parts[0][i : i + 64].copy()),
    }
    record: dict[str, Any] = {
        f"ms_per_tile, {name}": round(1000 * value / n, 5)
        for name, value in best(ways, rounds).items()
    }
    record["ms_per_tile, cut and write"] = round(1000 * built / n, 5)
    record["times_faster, memory"] = round(theirs / record["ms_per_tile, memory, shuffled"])
    record["times_faster, file"] = round(theirs / record["ms_per_tile, file, shuffled"])
    record["target_times_faster"] = 1000
    places = files.places
    # Pages stay in memory for as long as something maps them.
    del files, ways
    gc.collect()
    record |= cold_reads(places, folder / "cache", order, windows)
    print(json.dumps(record), flush=True)
    return record


def cold_reads(places: Any, folder: Path, order: np.ndarray, windows: np.ndarray) -> dict[str, Any]:
    """Tiles per second of wall time after the system was asked to forget the files."""
    if not hasattr(os, "posix_fadvise"):
        return {}
    found: dict[str, Any] = {}
    n = len(order)
    for name, rows, window in (("shuffled", order, None), ("windows", windows, n // 8)):
        parts = {}
        for path in sorted(folder.glob("*.npy")):
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            parts[path.name] = np.load(path, mmap_mode="r")
        fresh = TileBank(parts, {}, {next(iter(parts)): places})
        begin = time.perf_counter()
        for start in range(0, n, 64):
            if window and start % window < 64:
                fresh.read_ahead(rows[start : start + window + 64])
            fresh[rows[start : start + 64]]
        found[f"cold_tiles_per_second, {name}"] = round(n / (time.perf_counter() - begin))
    return found


def read(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare ways of reading, from the image and from the bank."""
    n, rounds = arguments.spots, arguments.rounds
    reading = compare(folder, arguments.size, n, arguments.reference_spots, rounds)
    theirs = reading[1]["ms_image_tiles_dataset"]
    return {"reading": reading, "bank": bank(folder, n, theirs, rounds)}


def planning() -> dict[str, Any]:
    """Seconds of the processor to plan 500,000 windows on an image of 60,000 pixels a side."""
    from rankbygene.data.tiles._pieces import Pieces

    x0, y0 = np.random.default_rng(0).integers(0, 60_000 - SIDE, (2, 500_000))
    sizes = [512] * 117 + [96]
    seconds = best({"plan": lambda: Pieces((sizes, sizes), x0, y0, SIDE)}, 2)["plan"]
    return {"n_spots": 500_000, "seconds": round(seconds, 2)}


def repeated(path: Path, size: int, chunk: int) -> da.Array:
    """Store an image every chunk of which is a link to one file, so that it takes no room."""
    depth = next(shape[0] for shape in CHUNKS if shape[1] == chunk)
    array = zarr.create_array(path, shape=(3, size, size), chunks=(depth, chunk, chunk), dtype="u1")
    array[:depth, :chunk, :chunk] = picture(chunk)[:depth]
    first, n = path / "c/0/0/0", -(-size // chunk)
    for channel, row in itertools.product(range(3 // depth), range(n)):
        folder = path / f"c/{channel}/{row}"
        folder.mkdir(parents=True, exist_ok=True)
        for column in range(n):
            if folder / str(column) != first:
                os.link(first, folder / str(column))
    return da.from_zarr(zarr.open_array(path, mode="r"))


def memory(size: int, n: int, chunk: int) -> dict[str, Any]:
    """Peak memory of streaming ``n`` tiles from a stored image."""
    with tempfile.TemporaryDirectory() as folder:
        pixels, points = repeated(Path(folder) / "image", size, chunk), hexagonal(size, n)
        x0, y0 = np.rint(points - SIDE / 2).astype(int).T
        gc.collect()
        before = peak_memory_mib()
        total = sum(len(rows) for rows, _ in stream_tiles(pixels, x0, y0, SIDE, workers=2))
    return {
        "size": size,
        "n_tiles": total,
        "chunk": chunk,
        "before_mib": round(before),
        "peak_mib": round(peak_memory_mib()),
    }


def memory_apart(size: int, n: int, chunk: int) -> dict[str, Any]:
    """Measure :func:`memory` in a process of its own."""
    command = [sys.executable, __file__, "--memory", str(size), str(n), str(chunk)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(record), flush=True)
    return record


def table(result: dict[str, Any]) -> str:
    """Write the comparison as Markdown."""
    lines = [
        "| chunks | ms per tile | decompressing alone | zarr alone | ImageTilesDataset | "
        "times faster | target |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {tuple(r['chunks'])} | {r['ms_per_tile']:.2f} | {r['ms_decoding_alone']:.2f} | "
        f"{r['ms_zarr_alone']:.2f} | "
        f"{r['ms_image_tiles_dataset']:.1f} | {r['times_faster']:.0f} | "
        f"{r['target_times_faster'] or '-'} |"
        for r in result["reading"]
    ]
    return "\n".join(lines)


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--size", type=int, default=10_000)
    parser.add_argument("--spots", type=int, default=2000)
    parser.add_argument("--reference-spots", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="others stay as they were"
    )
    parser.add_argument("--memory", type=int, nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    if arguments.memory:
        print(json.dumps(memory(*arguments.memory)))
        return
    path = arguments.out / "tiles.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    settings = {k: v for k, v in vars(arguments).items() if k not in ("out", "memory", "parts")}
    result |= {"settings": settings, "machine": describe_machine()}
    if "reading" in arguments.parts:
        with tempfile.TemporaryDirectory() as name:
            result |= read(Path(name), arguments)
        print(table(result))
    if "planning" in arguments.parts:
        result["planning"] = planning()
    if "memory" in arguments.parts:
        cases = [(size, 10_000, chunk) for chunk in (512, 4096) for size in (60_000, 120_000)]
        result["memory"] = [memory_apart(*case) for case in [*cases, (60_000, 100_000, 4096)]]
    write_record(result, path)


if __name__ == "__main__":
    main()
