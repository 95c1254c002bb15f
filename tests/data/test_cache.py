from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from dask import threaded

import rankbygene as rbg
from rankbygene.data import SpotFrame, TileBank, TileReader, resolve_slides
from rankbygene.data.tiles import _bank as bank_module
from rankbygene.errors import InputValueError

TILE: dict[str, Any] = {"tile_um": 16, "tile_px": 32}


@pytest.fixture
def frames(build: SimpleNamespace) -> dict[str, SpotFrame]:
    """Two slides whose names, images and spots are told apart by their pixels alone."""
    slides = [build.slide(image=build.image(build.picture(seed=seed))) for seed in range(2)]
    return resolve_slides(dict(zip(("one", "two"), slides, strict=True)))


@pytest.fixture
def cuts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Spots of every slide that was cut as a whole."""
    cut: list[int] = []
    stream = TileReader.stream

    def counted(self: TileReader, rows: Any = None) -> Any:
        if rows is None:
            cut.append(len(self.plan.x0))
        return stream(self, rows)

    monkeypatch.setattr(TileReader, "stream", counted)
    return cut


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_a_model_trains_alike_and_cuts_once(
    make_slides: Callable[..., list[Any]],
    fit_tiny: Callable[..., Any],
    tmp_path: Path,
    cuts: list[int],
) -> None:
    settings = {"tile_px": 32, "cache_dir": tmp_path / "cache"}
    plain = fit_tiny(make_slides(2))
    cuts.clear()
    first = fit_tiny(make_slides(2), model_kwargs=settings)
    assert len(cuts) == len(files(tmp_path / "cache")) == 2
    slides = make_slides(2)
    second = fit_tiny(slides, model_kwargs=settings)
    assert len(cuts) == 2
    second.save(tmp_path / "model")
    assert str(tmp_path) not in (tmp_path / "model" / "model.json").read_text()
    for model in (first, second):
        for name, expected in plain.get_normalized_expression().items():
            np.testing.assert_array_equal(model.get_normalized_expression()[name], expected)
    assert rbg.model.load(tmp_path / "model").cache_dir is None
    loaded = rbg.model.load(tmp_path / "model", slides, cache_dir=tmp_path / "cache")
    loaded.get_latent_representation()
    assert len(cuts) == 2


def test_folds_seeds_and_warm_starts_share_what_was_cut(
    make_slides: Callable[..., list[Any]], tmp_path: Path, cuts: list[int]
) -> None:
    slides = {f"s{i}": slide for i, slide in enumerate(make_slides(3))}
    encoder: dict[str, Any] = {"backbone": "test_resnet", "pretrained": False, "tile_px": 32}
    for _ in range(2):
        rbg.tl.cross_validate(
            slides,
            baselines=["mean"],
            references=[],
            genes=10,
            max_epochs=1,
            seeds=(0, 1),
            model_kwargs={"cache_dir": tmp_path},
            train_kwargs={"accelerator": "cpu", "batch_size": 8},
            **encoder,
        )
        assert len(cuts) == len(files(tmp_path)) == 3
    for _ in range(2):
        rbg.model.pretrain(
            slides,
            cache_dir=tmp_path,
            tile_um=40.0,
            max_epochs=1,
            batch_size=4,
            accelerator="cpu",
            **encoder,
        )
        assert len(cuts) == len(files(tmp_path)) == 6


def test_slides_are_reused_in_other_combinations(
    frames: dict[str, SpotFrame], tmp_path: Path, cuts: list[int]
) -> None:
    expected = TileBank.build(frames, **TILE)[:]
    cuts.clear()
    bank = TileBank.build(frames, **TILE, cache_dir=tmp_path)
    np.testing.assert_array_equal(bank[:], expected)
    np.testing.assert_array_equal(bank[[7, 0, 4]], expected[[7, 0, 4]])
    other = TileBank.build({"again": frames["two"]}, **TILE, cache_dir=str(tmp_path))
    np.testing.assert_array_equal(other[:], expected[4:])
    assert cuts == [4, 4]
    # Each file is an array that NumPy reads, and nobody may write into.
    maps = [np.load(path, mmap_mode="r") for path in files(tmp_path)]
    assert sorted(array.sum() for array in maps) == sorted([expected[:4].sum(), expected[4:].sum()])
    with pytest.raises(ValueError, match="read-only"):
        bank._parts[0][:] = 0


def test_neighbours_lie_side_by_side(build: SimpleNamespace, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 1, (400, 2)) * [160, 120]
    frames = resolve_slides(build.slide(points, image=build.image(build.picture(120, 160))))
    bank = TileBank.build(frames, tile_um=4, tile_px=8, cache_dir=tmp_path)
    assert bank.places is not None
    stored = points[np.argsort(bank.places)]
    runs = np.stack([np.ptp(stored[i : i + 16], axis=0) for i in range(0, 400, 16)])
    assert runs.prod(axis=1).mean() < 160 * 120 / 400 * 16 * 6
    np.testing.assert_array_equal(bank[:], TileBank.build(frames, tile_um=4, tile_px=8)[:])


def test_runs_are_read_ahead(
    frames: dict[str, SpotFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = TileBank.build(frames, **TILE, cache_dir=tmp_path)
    assert bank.places is not None
    asked: list[tuple[int, list[int]]] = []
    read_ahead = bank_module._read_ahead

    def noted(part: np.ndarray, rows: np.ndarray) -> None:
        asked.append((id(part), rows.tolist()))
        read_ahead(part, rows)

    monkeypatch.setattr(bank_module, "_read_ahead", noted)
    rows = np.argsort(bank.places)[[6, 0, 1, 3, 4]]
    bank.read_ahead(rows)
    one, two = (id(part) for part in bank._parts)
    assert asked == [(one, [0, 1]), (one, [3]), (two, [0]), (two, [2])]
    bank.read_ahead(np.arange(8))
    TileBank.build(frames, **TILE).read_ahead(np.arange(8))
    assert asked[4:] == [(one, [0, 1, 2, 3]), (two, [0, 1, 2, 3])]


@pytest.mark.parametrize(
    "change", ["pixels", "transformation", "chunks", "tile_um", "tile_px", "spots"]
)
def test_what_changed_is_cut_again(
    build: SimpleNamespace, tmp_path: Path, cuts: list[int], change: str
) -> None:
    pixels, tile = build.picture(), dict(TILE)
    image: dict[str, Any] = {"chunks": (3, 50, 50)}
    spots = np.array([[40, 30], [80, 30], [40, 70], [80, 70.0]])

    def built() -> np.ndarray:
        slide = build.slide(spots, image=build.image(pixels, **image))
        return TileBank.build(resolve_slides(slide), **tile, cache_dir=tmp_path)[:]

    before = built()
    np.testing.assert_array_equal(built(), before)
    assert cuts == [4]
    if change == "pixels":
        pixels = pixels.copy()
        pixels[:, 70, 80] ^= 1
    elif change == "transformation":
        shift = np.array([[1, 0, 5], [0, 1, 0], [0, 0, 1.0]])
        image["systems"] = {"global": build.affine(shift), "um": build.scale(0.5)}
    elif change == "chunks":
        image["chunks"] = (3, 40, 40)
    elif change == "spots":
        spots = spots + 3
    else:
        tile[change] = {"tile_um": 20, "tile_px": 24}[change]
    after = built()
    # How the image is stored does not decide what the tiles hold.
    assert cuts == ([4] if change == "chunks" else [4, 4])
    assert np.array_equal(after, before) == (change == "chunks")


def test_a_spot_that_moves_a_little_keeps_its_own_tile(
    build: SimpleNamespace, tmp_path: Path, cuts: list[int]
) -> None:
    rng = np.random.default_rng(0)
    spots = np.round(rng.uniform(10, 110, (300, 2)))
    image = build.image(build.picture(120, 160))

    def frames_of(points: np.ndarray) -> dict[str, SpotFrame]:
        return resolve_slides(build.slide(points, image=image))

    TileBank.build(frames_of(spots), tile_um=4, tile_px=8, cache_dir=tmp_path)
    for shift in (rng.normal(0, 1e-9, spots.shape), rng.uniform(-0.4, 0.4, spots.shape)):
        moved = frames_of(spots + shift)
        kept = TileBank.build(moved, tile_um=4, tile_px=8, cache_dir=tmp_path)
        np.testing.assert_array_equal(kept[:], TileBank.build(moved, tile_um=4, tile_px=8)[:])


def test_a_pixel_that_no_tile_holds_is_noticed_and_a_pipe_is_refused(
    build: SimpleNamespace, tmp_path: Path
) -> None:
    pixels = build.picture()

    def built() -> None:
        slide = build.slide(image=build.image(pixels))
        TileBank.build(resolve_slides(slide), **TILE, cache_dir=tmp_path)

    built()
    pixels = pixels.copy()
    pixels[:, 0, 0] ^= 1
    built()
    assert len(files(tmp_path)) == 2
    for path in files(tmp_path):
        path.unlink()
        os.mkfifo(path)
    with pytest.raises(InputValueError, match="pipe"):
        built()


@pytest.mark.parametrize("damage", ["cut off", "record cut off", "empty", "flipped", "header"])
def test_damage_is_found_and_mended(
    frames: dict[str, SpotFrame], tmp_path: Path, cuts: list[int], damage: str
) -> None:
    expected = TileBank.build(frames, **TILE, cache_dir=tmp_path)[:]
    path = files(tmp_path)[0]
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    elif damage == "header":
        content[content.index(b"|u1")] = ord(b"<")
        content[content.index(b"u1")] = ord(b"i")
    else:
        content = content[
            : {"cut off": len(content) // 2, "record cut off": -1, "empty": 0}[damage]
        ]
    path.write_bytes(content)
    cuts.clear()
    with pytest.warns(UserWarning, match=rf"{path.name} is damaged \(.*its tiles are cut again"):
        bank = TileBank.build(frames, **TILE, cache_dir=tmp_path)
    np.testing.assert_array_equal(bank[:], expected)
    np.testing.assert_array_equal(TileBank.build(frames, **TILE, cache_dir=tmp_path)[:], expected)
    assert cuts == [4]


def test_limit_and_full_disk(
    frames: dict[str, SpotFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = 2 * 4 * 3 * 32 * 32
    with pytest.raises(InputValueError, match="(?s)0.0 GiB that are in .*Delete files in it") as e:
        TileBank.build(frames, **TILE, cache_dir=tmp_path, cache_limit=two - 1)
    assert str(tmp_path) in str(e.value)
    assert len(files(tmp_path)) == 1
    TileBank.build({"one": frames["one"]}, **TILE, cache_dir=tmp_path, cache_limit=two - 1)
    usage = SimpleNamespace(total=1, used=0, free=2**28)
    monkeypatch.setattr("rankbygene.data.tiles._cache.shutil.disk_usage", lambda _: usage)
    with pytest.raises(InputValueError, match="0.2 GiB free; pass cache_dir="):
        TileBank.build(frames, **TILE, cache_dir=tmp_path)
    with pytest.raises(InputValueError, match="0.2 GiB free; pass cache_dir="):
        TileBank.build(frames, **TILE, memory_limit=1000)
    assert len(files(tmp_path)) == 1


def test_interruption_leaves_nothing(
    frames: dict[str, SpotFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = TileReader.stream

    def interrupted(self: TileReader, rows: Any = None) -> Any:
        yield from stream(self, rows)
        if rows is None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TileReader, "stream", interrupted)
        with pytest.raises(KeyboardInterrupt):
            TileBank.build(frames, **TILE, cache_dir=tmp_path)
    assert files(tmp_path) == []
    TileBank.build(frames, **TILE, cache_dir=tmp_path)


def test_processes_that_cut_at_once(frames: dict[str, SpotFrame], tmp_path: Path) -> None:
    expected = TileBank.build(frames, **TILE)[:]
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()

    def build_one() -> None:
        stream = TileReader.stream

        def together(self: TileReader, rows: Any = None) -> Any:
            # All are past the search for a file when the first begins to write.
            if rows is None:
                barrier.wait(30)
            yield from stream(self, rows)

        # The threads of the parent are not in its child.
        threaded.pools.clear()
        TileReader.stream = together  # type: ignore[method-assign]
        bank = TileBank.build(frames, **TILE, cache_dir=tmp_path)
        results.put(bool(np.array_equal(bank[:], expected)))

    processes = [context.Process(target=build_one) for _ in range(3)]
    for process in processes:
        process.start()
    try:
        assert [results.get(timeout=60) for _ in processes] == [True] * 3
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    assert len(files(tmp_path)) == 2
