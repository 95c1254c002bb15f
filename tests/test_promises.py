"""The list of promises names what exists, and tables on pages are those of the records that they come from."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LIST = ROOT / "docs" / "promises.md"
HOLDER = re.compile(r"`((?:tests|benchmarks|\.ci)/[^`:]+)(?:::(\w+))?`")
LINK = re.compile(r"\]\((?!http)([\w./]+\.md)(?:#[\w-]+)?\)")
NUMBER = re.compile(r"\d[\d,]*\.?\d*")
Row = tuple[Any, ...]


def promises() -> list[list[str]]:
    """Return the cells of all rows, without headers and rules."""
    rows = [line for line in LIST.read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    return [row for row in cells if row[0] != "promise"]


@cache
def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_whatever_holds_a_promise_exists() -> None:
    missing = []
    for row in promises():
        assert len(row) == 3, row
        holders = HOLDER.findall(row[2])
        assert holders, f"nothing holds: {row}"
        for file, function in holders:
            path = ROOT / file
            if not path.exists() or (function and function not in functions(path)):
                missing.append(f"{file}::{function}".removesuffix("::"))
    assert missing == []


def test_every_page_that_promises_is_in_the_list() -> None:
    listed = {target for row in promises() for target in LINK.findall(row[1])}
    docs = ROOT / "docs"
    pages = {"concepts.md", "architecture.md", "contributing.md"}
    pages |= {str(path.relative_to(docs)) for path in (docs / "user_guide").glob("*.md")}
    assert listed == pages
    assert any("README" in row[1] for row in promises())


# ---- tables of benchmarks ------------------------------------------------------------------------


def record(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def rows_of_reading() -> Iterator[Row]:
    found = record("tiles.json")
    for one in found["reading"]:
        times = [one[f"ms_{what}"] for what in ("per_tile", "decoding_alone", "zarr_alone")]
        yield (
            f"({', '.join(map(str, one['chunks']))})",
            *times,
            one["ms_image_tiles_dataset"],
            one["times_faster"],
        )
    bank = found["bank"]
    for label, where in (("held in memory", "memory"), ("kept in a file", "file")):
        yield (
            f"tiles {label}",
            bank[f"ms_per_tile, {where}, shuffled"],
            *[""] * 3,
            bank[f"times_faster, {where}"],
        )


def rows_of_growth() -> Iterator[Row]:
    stages = {
        "read the store": "read the store",
        "set-up": "set-up: checks, joins, split, panel of 250 genes",
        "smoothed expression of all spots": "smoothed expression of all spots",
        "one epoch over a sample": "one epoch over a sample of 4,096 spots, per spot of the slide",
        "embedding": "embedding",
        "prediction to disk": "prediction into a store",
    }
    sizes = record("scale.json")["results"]
    for stage, label in stages.items():
        yield (
            label,
            *(
                (
                    1000 * one["stages"][stage]["cpu_s"] / one["n_spots"],
                    one["stages"][stage]["peak_gib"],
                )
                for one in sizes
            ),
        )


def rows_of_rates() -> Iterator[Row]:
    train, embed = (record(name)["results"] for name in ("train.json", "embed.json"))
    for label, found, name in (
        ("networks alone: student forward and backward, teacher forward", train, "bare"),
        ("training", train, "training"),
        ("encoder alone, eight orientations", embed, "bare"),
        ("representation and prediction", embed, "embedding"),
    ):
        rates = [found[f"{name}, {precision}"] for precision in ("32-true", "bf16-mixed")]
        yield (label, *(rate["spots_per_cpu_second"] for rate in rates))
    yield ("the authors' loop", train["the authors' loop"]["spots_per_cpu_second"], "")


def rows_of_windows() -> Iterator[Row]:
    labels = {None: "all 1,200", 600: "600", 300: "300", 64: "64, a batch"}
    for one in record("shuffling.json")["records"]:
        scores = ("train_loss", "validation_loss", "validation_pearson")
        yield (labels[one["window"]], *(np.mean(one[score]) for score in scores))


def rows_of_chunks() -> Iterator[Row]:
    for one in record("gradcache.json")["records"]:
        size = one["chunk_size"]
        yield (
            "" if size else f"`{one['backbone']}`",
            str(size or "all"),
            one["peak_mib_of_step"],
            one["cpu_seconds"],
        )


def rows_of_neighbourhoods() -> Iterator[Row]:
    records = record("neighbourhoods.json")["records"]
    for alone, both in zip(records[::2], records[1::2], strict=True):
        times = [one["cpu_milliseconds_per_spot"] for one in (alone, both)]
        spots, memory = f"{both['n_spots']:,}", both["peak_memory_mib"] / 1024
        yield (spots, *times, times[1] / times[0], memory)


def rows_of_ablations() -> Iterator[Row]:
    records = record("ablations.json")["records"]

    def spread(values: list[float]) -> tuple[float, float]:
        return float(np.mean(values)), float(np.std(values, ddof=1))

    for row, label in {
        "contrast": "contrast",
        "contrast + ranking (paper)": "contrast + ranking (paper)",
        "contrast + ranking (released)": "contrast + ranking (released)",
        "contrast + ranking (paper) + distillation": "contrast + ranking (paper) + distillation",
        "expression only": "expression",
        "expression + contrast": "expression + contrast",
        "expression + all": "expression + all (the default)",
    }.items():
        head = "joint" if row.startswith("expression") else "frozen"
        yield label, head, spread([one["pearson"] for one in records if one["row"] == row])
    for key, label in (("color", "colour statistics"), ("backbone", "the untrained encoder")):
        scores = {one["seed"]: one[f"{key} + ridge"] for one in records}
        yield f"ridge on {label}", "", spread(list(scores.values()))


def rows_of_real_tissue() -> Iterator[Row]:
    wide, narrow, bulb = (
        {name: one["pearson"] for name, one in record(f"real_data/{file}.json")["summary"].items()}
        for file in ("her2st", "narrow", "bulb")
    )
    names = ("NH2ST", "supervised", "ridge")
    label = "breast cancer, sections of one patient held out, tiles of 224 µm, groups of 8"
    ceiling = wide["noise ceiling"]
    yield label, *(narrow[name] for name in names), "", ceiling
    for label, found in (
        ("the same, tiles of 600 µm", wide),
        ("olfactory bulb, one of two mice held out, tiles of 300 µm", bulb),
    ):
        yield label, *(found[name] for name in (*names, "RankByGene", "noise ceiling"))


def rows_of_the_search() -> Iterator[Row]:
    text = (RESULTS / "recipe_search_nh2st.jsonl").read_text(encoding="utf-8")
    runs = [json.loads(line) for line in text.splitlines()]

    def mean(model: dict[str, Any], plan: dict[str, Any]) -> float | str:
        found = [run["pearson"] for run in runs if (run["model"], run["plan"]) == (model, plan)]
        return float(np.mean(found)) if found else ""

    query, narrow = {"decode_from": "query"}, {"tile_um": 224}
    for label, model, plan in (
        ("defaults", {}, {}),
        (
            'no neighbour branch (`decode_from="query"`, `weights={"neighbour": 0}`)',
            query,
            {"lambda_neighbour": 0.0},
        ),
        ('neighbours in the loss alone (`decode_from="query"`)', query, {}),
        (
            "contrast after attention, tokens are vectors",
            {"contrast_on": "post", "tokens": "vector"},
            {},
        ),
        ("no contrast", {}, {"lambda_query": 0.0, "lambda_neighbour": 0.0}),
        (
            "both contrasts at 0.3 of their weight",
            {},
            {"lambda_query": 0.3, "lambda_neighbour": 0.15},
        ),
        ('`activation="relu"`', {"activation": "relu"}, {}),
        ("groups of 16 spots", {}, {"patch_size": 16}),
        ("groups of 8 spots", {}, {"patch_size": 8}),
    ):
        yield label, mean(model, plan), mean({**narrow, **model}, plan)
    post = {"contrast_on": "post"}
    label = "contrast after attention, tokens of the map"
    yield label, mean(post, {}), (mean({**narrow, **post}, {"patch_size": 16}), 16)


def rows_of_the_cohort() -> Iterator[Row]:
    found = record("synthetic_cohort.json")
    scores = {
        (kind, one["features"], one["method"]): one[score]
        for kind, score in (("classification", "auroc"), ("survival", "concordance_index"))
        for one in found[kind]
    }
    for features in ("raw backbone", "contrast only", "RankByGene", "predicted expression"):
        yield (
            features,
            *(
                scores[kind, features, method]
                for kind, linear in (("classification", "logistic"), ("survival", "Cox ridge"))
                for method in ("attention", f"mean + {linear}")
            ),
        )


@pytest.mark.parametrize(
    ("page", "rows"),
    [
        ("speed", rows_of_reading),
        ("speed", rows_of_growth),
        ("speed", rows_of_rates),
        ("speed", rows_of_windows),
        ("devices", rows_of_chunks),
        ("nh2st", rows_of_neighbourhoods),
        ("nh2st", rows_of_real_tissue),
        ("nh2st", rows_of_the_search),
        ("rankbygene", rows_of_ablations),
        ("slides", rows_of_the_cohort),
    ],
)
def test_tables_are_those_of_the_records(page: str, rows: Callable[[], Iterator[Row]]) -> None:
    text = (ROOT / "docs" / "user_guide" / f"{page}.md").read_text(encoding="utf-8")
    table = [
        [cell.strip() for cell in line[1:-1].split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    missing = [row for row in rows() if not any(says(line, row) for line in table)]
    assert missing == []


def says(line: list[str], row: Row) -> bool:
    """Return whether a line of a table has the texts and, rounded as it is, the numbers of a row."""
    return len(line) == len(row) and all(map(cell_says, line, row))


def cell_says(cell: str, content: Any) -> bool:
    if isinstance(content, str):
        return cell == content
    printed = NUMBER.findall(cell)
    numbers = np.atleast_1d(content)
    return len(printed) == len(numbers) and all(
        abs(float(text.replace(",", "")) - number) <= 0.501 * 10.0 ** -len(text.partition(".")[2])
        for text, number in zip(printed, numbers, strict=True)
    )


def test_the_report_on_real_tissue_is_that_of_its_parts() -> None:
    report = (ROOT / "benchmarks" / "real_data.md").read_text(encoding="utf-8")
    parts = [*RESULTS.glob("real_data/*.md"), ROOT / "benchmarks" / "real_data_findings.md"]
    assert [
        path.name for path in parts if path.read_text(encoding="utf-8").strip() not in report
    ] == []
