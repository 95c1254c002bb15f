"""The numbers that a page prints are the numbers that its code prints, and tutorials run."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
TUTORIALS = DOCS.parent / "tutorials"
PAGES = ["user_guide/how_scores_mislead.md"]
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d[\d,]*\.?\d*")
# One unit of the last printed place: other versions of a library may round the other way.
TOLERANCE = 1.01


def unit(text: str) -> float:
    """Return the last place of a printed number."""
    return 10.0 ** -len(text.partition(".")[2])


def value(text: str) -> float:
    return float(text.replace(",", ""))


@pytest.mark.parametrize("page", PAGES)
def test_code_prints_what_the_page_says(page: str) -> None:
    blocks = BLOCK.findall((DOCS / page).read_text())
    assert sum(bool(printed) for _, printed in blocks) >= 10
    names: dict[str, object] = {}
    for code, printed in blocks:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, page, "exec"), names)
        found, expected = out.getvalue(), printed
        assert NUMBER.sub("#", found) == NUMBER.sub("#", expected), code
        for a, b in zip(NUMBER.findall(found), NUMBER.findall(expected), strict=True):
            assert abs(value(a) - value(b)) <= TOLERANCE * unit(b), (code, found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", sorted(TUTORIALS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_tutorials_run_and_print_what_they_say(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    names: dict[str, object] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile("".join(cell["source"]), path.name, "exec"), names)
        printed = (o["text"] for o in cell["outputs"] if o.get("name") == "stdout")
        assert out.getvalue() == "".join(line for text in printed for line in text)
