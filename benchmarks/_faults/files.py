"""Files that were damaged, or made by somebody else, in the place of what the package has written."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rankbygene as rbg
from _faults import scenarios
from _faults.children import copied, run_child
from _faults.outcome import FINE, FOREIGN, HANG, REFUSED, WRONG, Tally

# What a leaf of JSON may be where something else belongs.
ODD: list[Any] = [
    None, True, -1, 0, 1e300, 10**12, 10**400, float("nan"), "", "x", "../../x", "x" * 100_000, [], [None],
    {}, {"a": {"b": []}}, [[1]],
]  # fmt: skip
_TEXTS = (
    b"", b"[]", b"null", b"{}", b"[" * 200_000, b'{"a":' * 50_000, b'{"format": NaN}', b"1e999",
    b"\xff\xfe\x00", b"0" * 5000,
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """Files of one kind, and what reads them.

    Attributes
    ----------
    name
        What they are.
    pristine
        The folder that holds them.
    files
        Their paths in it.
    use
        Reads them, and gives values by which the result is told.
    """

    name: str
    pristine: Path
    files: tuple[str, ...]
    use: Callable[[Path], Any]


def make_targets(folder: Path, folders: Path) -> list[Target]:
    """Make the folders that are attacked; ``folders`` are those of the scenarios."""
    folder.mkdir(exist_ok=True)
    begun = run_child(lambda: _make_folders(folder, folders), folder, seconds=120)
    if begun.how != "done":
        msg = f"the campaign cannot begin: {begun.how} {begun.text}"
        raise RuntimeError(msg)
    store, model = folders / "slide.zarr", folders / "model_1"
    uses: dict[str, Callable[[Path], Any]] = {
        "model": lambda f: _use_model(f / "model"),
        "parts": lambda f: [
            scenarios._predict(model, store, f / "out.zarr"), scenarios.read_store(f / "out.zarr"),
        ][1],
        "folds": lambda f: scenarios._judge(store, f / "store", ("mean",)).per_gene.to_csv(),
        "tile cache": lambda f: scenarios._cut(store, f / "cache"),
        "bag": lambda f: scenarios._digest(
            scenarios._bytes(rbg.io.H5Bag(f / "bag.h5").read())
        ),
        "result": lambda f: rbg.tl.load_result(f / "result").per_gene.to_csv(),
        "journal": lambda f: [
            scenarios._annotate(f / store.name, model), scenarios.read_store(f / store.name),
        ][1],
    }  # fmt: skip
    targets = []
    for name, use in uses.items():
        place = folder / name.replace(" ", "_")
        files = [item for item in sorted(place.rglob("*")) if item.is_file()]
        if name == "journal":
            files = [item for item in files if item.name == "journal.json"]
        targets.append(
            Target(name, place, tuple(str(item.relative_to(place)) for item in files), use)
        )
    return targets


def _make_folders(folder: Path, folders: Path) -> None:
    from rankbygene.base.spots import _stream
    from rankbygene.io import _update

    store, model = folders / "slide.zarr", folders / "model_1"
    for name in ("model", "parts", "folds", "tile_cache", "bag", "result", "journal"):
        (folder / name).mkdir()
    shutil.copytree(model, folder / "model" / "model")
    scenarios._judge(store, folder / "folds" / "store", ("mean",)).save(
        folder / "result" / "result"
    )
    scenarios._cut(store, folder / "tile_cache" / "cache")
    scenarios._write_bag(store, folder / "bag" / "bag.h5", 8)
    assembled = _stream._assemble
    _stream._assemble = lambda *args, **kwargs: None
    scenarios._predict(model, store, folder / "parts" / "out.zarr")
    _stream._assemble = assembled
    shutil.copytree(store, folder / "journal" / store.name)
    moved = _update._move

    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    _update._move = stop
    try:
        scenarios._annotate(folder / "journal" / store.name, model)
    except KeyboardInterrupt:
        _update._move = moved


def _use_model(path: Path) -> Any:
    model = rbg.model.load(path)
    history = {} if model.history is None else {k: v.to_csv() for k, v in model.history.items()}
    return [scenarios.read_model(path), list(model.genes), repr(model), history]


def run_files(target: Target, folder: Path, *, n: int, seed: int) -> Tally:
    """Put so many hostile files in the place of a target's, and look what comes of each."""
    tally, rng = Tally(), random.Random(f"{seed} {target.name}")
    with copied(target.pristine, folder):
        right = run_child(lambda: target.use(folder), folder)
    if right.how != "done":
        msg = f"{target.name}, unharmed: {right.how} {right.text}"
        raise RuntimeError(msg)
    for _ in range(n):
        with copied(target.pristine, folder):
            name = rng.choice(target.files)
            what = _attack(folder / name, rng, folder)
            ended = run_child(lambda: target.use(folder), folder, seconds=45)
            case = f"{target.name}, {name}: {what}"
            if (folder / "owned").exists():
                tally.add(WRONG, f"{case}: its code ran")
            elif ended.how == "hang":
                tally.add(HANG, case)
            elif ended.how == "refused":
                tally.add(REFUSED)
            elif ended.how == "done":
                same = ended.value == right.value
                tally.add(FINE if same else WRONG, f"{case}: {str(ended.value)[:300]}")
            else:
                tally.add(FOREIGN, f"{case}: {ended.text[-700:]}")
    return tally


def _attack(file: Path, rng: random.Random, folder: Path) -> str:
    """Harm a file, and say how."""
    attacks = [_flip, _flip, _cut_short, _no_tail, _more, _other, _code, _no_file]
    if file.suffix == ".json":
        attacks += [_leaf, _leaf, _leaf, _text]
    attack = rng.choice(attacks)
    return f"{attack.__name__[1:]} {attack(file, rng, folder)}"


def _flip(file: Path, rng: random.Random, _: Path) -> str:
    data = bytearray(file.read_bytes())
    place, bit = rng.randrange(len(data)), rng.randrange(8)
    data[place] ^= 1 << bit
    file.write_bytes(bytes(data))
    return f"bit {bit} of byte {place} of {len(data)}"


def _cut_short(file: Path, rng: random.Random, _: Path) -> str:
    data = file.read_bytes()
    n = rng.randrange(len(data))
    file.write_bytes(data[:n])
    return f"to {n} of {len(data)}"


def _no_tail(file: Path, rng: random.Random, _: Path) -> str:
    data = file.read_bytes()
    n = rng.randrange(len(data))
    file.write_bytes(data[:n] + bytes(len(data) - n))
    return f"from {n} of {len(data)}"


def _more(file: Path, rng: random.Random, _: Path) -> str:
    file.write_bytes(file.read_bytes() + rng.randbytes(rng.randrange(1, 5000)))
    return ""


def _other(file: Path, rng: random.Random, _: Path) -> str:
    file.write_bytes(rng.randbytes(rng.randrange(3000)))
    return ""


def _code(file: Path, rng: random.Random, folder: Path) -> str:
    file.write_bytes(pickle.dumps(_Code(str(folder / "owned")), protocol=rng.choice([0, 2, 4])))
    return ""


class _Code:
    """A pickle that makes a folder when it is opened."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)


def _no_file(file: Path, rng: random.Random, folder: Path) -> str:
    file.unlink()
    kind = rng.choice(["gone", "pipe", "folder", "itself", "nowhere", "endless", "full folder"])
    if kind == "pipe":
        os.mkfifo(file)
    elif kind in ("folder", "full folder"):
        file.mkdir()
        if kind == "full folder":
            (file / "x").write_text("x")
    elif kind != "gone":
        goals = {"itself": file.name, "nowhere": "nothing-here", "endless": "/dev/zero"}
        file.symlink_to(goals[kind])
    return kind


def _text(file: Path, rng: random.Random, _: Path) -> str:
    i = rng.randrange(len(_TEXTS))
    file.write_bytes(_TEXTS[i])
    return str(_TEXTS[i][:12])


def _leaf(file: Path, rng: random.Random, _: Path) -> str:
    record = json.loads(file.read_text(encoding="utf-8"))
    places = list(_places(record))
    if not places:
        return "of nothing"
    place, value = rng.choice(places), rng.choice(ODD)
    inner = record
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    file.write_text(json.dumps(record), encoding="utf-8")
    return f"{place} = {str(value)[:20]}"


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if place:
        yield place
    items = value.items() if isinstance(value, dict) else ()
    for key, item in items or (enumerate(value) if isinstance(value, list) else ()):
        yield from _places(item, (*place, key))
