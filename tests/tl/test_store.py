from __future__ import annotations

import json
import os
import re
import signal
import time
import warnings
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge
from spatialdata.models import Image2DModel
from spatialdata.transformations import get_transformation

import rankbygene as rbg
from rankbygene.errors import InputTypeError, InputValueError
from rankbygene.nn import build_backbone
from rankbygene.nn.encoders._weights import save_tensors
from rankbygene.tl import EnsembleMethod, ModelMethod, NestedSelection
from rankbygene.tl.cross_validation._identity import tell
from rankbygene.tl.cross_validation._methods import BASELINES, FeatureMethod, baseline
from rankbygene.tl.cross_validation._store import FoldStore, Outcome

SCALE = 1.0


def constant(value: float = 0.0) -> Any:
    """A method that predicts one number, which its closure holds."""

    def method(train: Any) -> Any:
        genes = len(train.genes)
        return lambda test: np.full((sum(map(len, test.rows.values())), genes), value)

    return method


@cache
def slides() -> list[Any]:
    found: list[Any] = rbg.datasets.synthetic(3, n_patients=3, n_spots=30, n_genes=12, seed=1)
    return found


@pytest.fixture(scope="module")
def run() -> Any:
    """Cross-validate without any training."""

    def run(sdatas: Any, method: Any, store: Path, **kwargs: Any) -> Any:
        settings: dict[str, Any] = {
            "backbone": "test_resnet",
            "pretrained": False,
            "tile_um": 112.0,
            "tile_px": 32,
            "genes": 4,
            "baselines": (),
            "references": (),
            "only_folds": [0],
        }
        return rbg.tl.cross_validate(sdatas, {"m": method}, store=store, **(settings | kwargs))

    return run


@pytest.fixture(scope="module")
def begun(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one fold; tests must leave it as it is."""
    store: Path = tmp_path_factory.mktemp("stores") / "begun"
    run(slides(), constant(), store)
    return store


def value_of(result: Any) -> list[float]:
    values = result.predictions.layers["m"]
    return sorted({float(value) for value in values[~np.isnan(values)]})


# ---- the study --------------------------------------------------------------------------------------


def permute_counts(sdata: Any) -> None:
    counts = sdata["table"].X.toarray()
    sdata["table"].X = sparse.csr_matrix(counts[np.random.default_rng(5).permutation(len(counts))])


def invert_image(sdata: Any) -> None:
    (name,) = sdata.images
    image = sdata.images[name]
    pixels = image["scale0"].ds["image"] if hasattr(image, "children") else image
    transformations = get_transformation(image, get_all=True)
    del sdata.images[name]
    sdata.images[name] = Image2DModel.parse(
        255 - np.asarray(pixels.data),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations=dict(transformations),
    )


def move_spot(sdata: Any) -> None:
    (shapes,) = sdata.shapes.values()
    shapes.loc[shapes.index[3], "geometry"] = shapes.geometry.iloc[3].__class__(
        shapes.geometry.iloc[3].x + 0.3, shapes.geometry.iloc[3].y
    )


@pytest.mark.parametrize(
    ("change", "part"),
    [(permute_counts, "counts"), (invert_image, "pixels"), (move_spot, "geometry")],
)
def test_changed_slides_are_refused_by_name(run: Any, begun: Path, change: Any, part: str) -> None:
    changed = slides.__wrapped__()
    change(changed[1])
    (name,) = [
        key for key in json.loads((begun / "study.json").read_text())["slides"] if "1" in key
    ]
    with pytest.raises(InputValueError, match="another study") as caught:
        run(changed, constant(), begun)
    assert f"{part} of slide {name!r} differ" in str(caught.value)
    # The inverted image has one level instead of several, which the geometry tells as well.
    others = {"counts", "spots", "pixels"} - {part}
    assert not any(f"{other} of slide" in str(caught.value) for other in others)


def test_the_same_study_goes_on(run: Any, begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("rankbygene.tl.cross_validation._cross_validate.sides", never)
    assert value_of(run(slides(), constant(), begun)) == [0.0]


def test_weights_of_the_same_name_are_told_by_their_bytes(run: Any, tmp_path: Path) -> None:
    network, _ = build_backbone("test_resnet", pretrained=False)
    state = {name: value.contiguous() for name, value in network.network.state_dict().items()}
    file = tmp_path / "weights.safetensors"
    save_tensors(state, file)
    result = run(slides(), constant(), tmp_path / "store", weights=file)
    kept = (tmp_path / "store" / "study.json").read_text()
    assert str(tmp_path) not in kept + json.dumps(result.provenance)
    assert "weights.safetensors" in kept
    run(slides(), constant(), tmp_path / "store", weights=file)
    save_tensors({name: value + 1 for name, value in state.items()}, file)
    with pytest.raises(InputValueError, match="backbone: weights: sha256 differ"):
        run(slides(), constant(), tmp_path / "store", weights=file)


def test_weights_of_a_method_leave_no_path(run: Any, tmp_path: Path) -> None:
    method = EnsembleMethod({"one": constant(), "two": constant()})
    file = tmp_path / "w.pt"
    torch.save({"w": torch.zeros(2)}, file)
    settings = {"one": ModelMethod(model_kwargs={"weights": file, "cache_dir": str(tmp_path)})}
    result = run(slides(), method, tmp_path / "store")
    assert str(tmp_path) not in json.dumps(result.provenance)
    before, untold = tell(settings)
    assert str(tmp_path) not in json.dumps(before)
    assert not untold
    torch.save({"w": torch.ones(2)}, file)
    assert tell(settings)[0] != before


# ---- methods ----------------------------------------------------------------------------------------


def test_an_edited_function_is_refused(run: Any, begun: Path) -> None:
    def method(train: Any) -> Any:
        genes = len(train.genes)
        return lambda test: np.ones((sum(map(len, test.rows.values())), genes))

    method.__qualname__ = constant().__qualname__
    for other in (method, constant(1.0), Ridge(), RandomForestRegressor()):
        with pytest.raises(InputValueError, match="other settings of 'm'"):
            run(slides(), other, begun)
    assert value_of(run(slides(), {"n": method}["n"], begun.parent / "edited")) == [1.0]


def helper(x: float) -> float:
    return x * SCALE


def method_of_globals(train: Any) -> Any:
    return helper(SCALE)


class Callable:
    offset = 1.0

    def __init__(self, **kwargs: Any) -> None:
        self.__dict__.update(kwargs)

    def __call__(self, train: Any) -> Any:
        return self.offset


def network(scale: float = 0.0) -> torch.nn.Module:
    torch.manual_seed(0)
    made = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Dropout(scale), torch.nn.ReLU())
    return made


def different() -> list[tuple[Any, Any]]:
    def default(train: Any, size: int = 1) -> Any: ...
    def other_default(train: Any, size: int = 2) -> Any: ...
    def caught(train: Any) -> Any:
        try:
            return train.a
        except KeyError:
            return train.b

    def not_caught(train: Any) -> Any:
        try:
            return train.a
        except ValueError:
            return train.b

    other_weights = network()
    with torch.no_grad():
        other_weights[0].weight[0, 0, 0, 0] += 1e-3
    changed = np.arange(6.0)
    changed[3] += 1e-9
    return [
        (constant(1.0), constant(2.0)),
        (constant(1), constant(1.0)),
        (constant(np.arange(6.0)), constant(changed)),
        (constant({"a": [helper]}), constant({"a": [method_of_globals]})),
        (default, other_default),
        (caught, not_caught),
        (lambda t: t.x in {1, 2}, lambda t: t.x in {1, 3}),
        (lambda t: t.x + 1, lambda t: t.y + 1),
        (Callable(a=1), Callable(a=2)),
        (partial(helper, x=1), partial(helper, x=2)),
        (Callable(a=1).__call__, Callable(a=2).__call__),
        (Ridge(1.0), Ridge(2.0)),
        (Ridge(1.0), Ridge(1.0).fit([[0.0], [1.0]], [0.0, 1.0])),
        (FeatureMethod(Ridge()), FeatureMethod(Ridge(), "color_texture")),
        (ModelMethod(), ModelMethod(model_kwargs={"seed": 3})),
        (ModelMethod(), ModelMethod(predict="retrieval")),
        (NestedSelection({"a": constant(1)}), NestedSelection({"a": constant(2)})),
        (network(), other_weights),
        (network(), network(0.5)),
        (network(), network().eval()),
        (np.random.default_rng(1), np.random.default_rng(2)),
        (sparse.csr_matrix(np.eye(3)), sparse.csr_matrix(2 * np.eye(3))),
    ]


def test_what_differs_is_told() -> None:
    for (one, other), (again, _) in zip(different(), different(), strict=True):
        assert tell(one) == tell(again), one
        assert json.dumps(tell(one)) != json.dumps(tell(other)), one
        assert not tell(one)[1] + tell(other)[1], one


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_are_told(name: str) -> None:
    assert not tell(baseline(name, {}, {}))[1]


def test_globals_and_helpers_of_a_function_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = tell(method_of_globals)
    assert not before[1]
    monkeypatch.setattr(f"{__name__}.SCALE", 2.0)
    changed = tell(method_of_globals)
    assert changed != before
    monkeypatch.undo()
    monkeypatch.setattr(helper, "__code__", (lambda x: x + 1).__code__)
    assert tell(method_of_globals) not in (before, changed)
    monkeypatch.undo()
    monkeypatch.setattr(Callable, "offset", 2.0)
    assert tell(Callable()) != before


def test_identity_is_the_same_in_another_session(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = """
import json
from rankbygene.tl.cross_validation._identity import tell
def helper(x): return {x, "a", "b"}
def method(train, names={"p", "q", "r"}): return helper(train) or train in {"u", "v", "w"}
print(json.dumps(tell(method)))
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    texts = {
        subprocess.run(
            [sys.executable, script],
            env={**env, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


def test_what_cannot_be_told_is_computed_again(run: Any, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as handle:
        method = constant(1.0)
        method.__defaults__ = (handle,)
        for value, warned in ((1.0, False), (2.0, True)):
            told = constant(value)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                result = run(slides(), Opaque(handle, told), tmp_path / "store")
            texts = [str(w.message) for w in caught if "cannot be told" in str(w.message)]
            assert bool(texts) is warned
            assert value_of(result) == [value]
        assert "TextIOWrapper" in texts[0]


class Opaque:
    """Holds a file, and is the same for pickle whatever else it holds."""

    def __init__(self, handle: Any, inner: Any) -> None:
        self.handle, self.inner = handle, inner

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Opaque, (self.handle, None)

    def __call__(self, train: Any) -> Any:
        return self.inner(train)


# ---- beginning together -------------------------------------------------------------------------------


def _fork(function: Any) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        function()
        code = 0
    finally:
        os._exit(code)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_processes_begin_a_store_together(tmp_path: Path) -> None:
    store, go = tmp_path / "store", time.time() + 0.3

    def begin() -> None:
        while time.time() < go:
            pass
        FoldStore(store, {"a": 1})

    children = [_fork(begin) for _ in range(16)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 16
    assert [item.name for item in store.iterdir()] == ["study.json"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_beginning_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    write = Path.write_text

    def killed(self: Path, *args: Any, **kwargs: Any) -> int:
        if self.name == "study.json":
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", killed)
    _, status = os.waitpid(_fork(lambda: FoldStore(store, {"a": 1})), 0)
    monkeypatch.undo()
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert [item.name for item in store.iterdir()] != ["study.json"]
    FoldStore(store, {"a": 1})
    assert [item.name for item in store.iterdir()] == ["study.json"]


def test_foreign_folders_and_studies_are_refused(tmp_path: Path) -> None:
    store = FoldStore(tmp_path / "store", {"a": 1})
    store.save("m", "f", 0, "{}", _outcome())
    with pytest.raises(InputValueError, match="another study.*a: 1 there, 2 now"):
        FoldStore(tmp_path / "store", {"a": 2})
    (tmp_path / "store" / "study.json").write_text("[1")
    with pytest.raises(InputValueError, match="damaged"):
        FoldStore(tmp_path / "store", {"a": 1})
    (tmp_path / "store" / "study.json").unlink()
    with pytest.raises(InputValueError, match="other files and no study.json"):
        FoldStore(tmp_path / "store", {"a": 1})
    (tmp_path / "file").touch()
    with pytest.raises(InputValueError, match="is a file"):
        FoldStore(tmp_path / "file", {"a": 1})
    with pytest.raises(InputTypeError, match="path of a folder"):
        FoldStore(3, {"a": 1})  # type: ignore[arg-type]


# ---- damaged files ------------------------------------------------------------------------------------


def _outcome(**kwargs: Any) -> Outcome:
    values: dict[str, Any] = {
        "predictions": np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32),
        "genes": ["a", "b", "c"],
        "seconds": 1.0,
        "peak_memory_mb": 2.0,
        "note": "chosen",
    }
    return Outcome(**(values | kwargs))


@pytest.fixture
def store(tmp_path: Path) -> FoldStore:
    made = FoldStore(tmp_path / "store", {"a": 1})
    made.save("m", "f", 0, "{}", _outcome())
    return made


def _load(store: FoldStore, **kwargs: Any) -> Outcome | None:
    values: dict[str, Any] = {"method": "m", "fold": "f", "seed": 0, "settings": "{}"}
    expected: dict[str, Any] = {"n_spots": 20, "genes": ["a", "b", "c"]}
    return store.load(**(values | expected | kwargs))


def test_a_whole_file_is_read_as_written(store: FoldStore) -> None:
    found, written = _load(store), _outcome()
    assert found is not None
    np.testing.assert_array_equal(found.predictions, written.predictions)
    assert (found.genes, found.note, found.seconds) == (written.genes, "chosen", 1.0)


def test_no_flipped_bit_and_no_truncation_passes(store: FoldStore) -> None:
    (file,) = store.path.rglob("m.npz")
    whole, original = file.read_bytes(), _outcome()
    damaged = [whole[:n] for n in (0, 1, 30, len(whole) // 2, len(whole) - 1)]
    for place in range(0, len(whole), 7):
        damaged.append(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
    damaged += [b"%PDF-1.4 thesis", whole[:128] + bytes(len(whole) - 128)]
    passed = 0
    for data in damaged:
        file.write_bytes(data)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = _load(store)
        if found is None:
            assert any(re.search(r"m\.npz is damaged", str(w.message)) for w in caught)
        else:  # a date or another field of the archive that says nothing of what it holds
            passed += 1
            np.testing.assert_array_equal(found.predictions, original.predictions)
            assert (found.genes, found.note) == (original.genes, original.note)
    assert passed < len(damaged) / 4


@pytest.mark.parametrize(
    "outcome",
    [
        _outcome(predictions=np.full((20, 3), np.nan, np.float32)),
        _outcome(predictions=np.zeros((19, 3), np.float32)),
        _outcome(predictions=np.zeros((20, 2), np.float32)),
        _outcome(genes=["a", "c", "b"]),
        _outcome(seconds=float("nan")),
    ],
)
def test_what_no_method_gives_is_computed_again(store: FoldStore, outcome: Outcome) -> None:
    store.save("m", "f", 0, "{}", outcome)
    with pytest.warns(UserWarning, match=r"m\.npz is damaged.*computed again"):
        assert _load(store) is None


def test_files_of_other_places_are_computed_again(store: FoldStore, tmp_path: Path) -> None:
    other = FoldStore(tmp_path / "other", {"a": 2})
    other.save("m", "f", 0, "{}", _outcome())
    store.save("m", "g", 1, "{}", _outcome())
    target = store.path / "seed=0" / "fold=f" / "m.npz"
    for source, text in (
        (other.path / "seed=0" / "fold=f" / "m.npz", "another study"),
        (store.path / "seed=1" / "fold=g" / "m.npz", "another fold, seed"),
    ):
        target.write_bytes(source.read_bytes())
        with pytest.warns(UserWarning, match=text):
            assert _load(store) is None


def test_pipes_and_folders_are_not_opened(store: FoldStore) -> None:
    file = store.path / "seed=0" / "fold=f" / "m.npz"
    file.unlink()
    file.mkdir()
    with pytest.raises(InputValueError, match="is a folder"):
        _load(store)


def test_a_damaged_fold_is_computed_again(run: Any, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run(slides(), constant(1.0), store)
    (file,) = store.rglob("m.npz")
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.warns(UserWarning, match=r"m\.npz is damaged"):
        assert value_of(run(slides(), constant(1.0), store)) == [1.0]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*damaged")
        assert value_of(run(slides(), constant(1.0), store)) == [1.0]
