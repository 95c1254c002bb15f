"""What a saved result gives back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from rankbygene.errors import InputValueError
from rankbygene.io._checksums import record_checksum
from rankbygene.tl import load_result
from rankbygene.tl.cross_validation._result import CrossValidation

GENES = ["NA", "nan", "007", "1e5", 'q"uote,\n2', "é"]


@pytest.fixture(scope="module")
def result() -> CrossValidation:
    rng = np.random.default_rng(0)
    rows = [
        {"method": method, "seed": seed, "fold": fold, "slide": f"0{fold}", "patient": patient}
        | {"gene": gene, "pearson": rng.normal() / 3, "mse": rng.lognormal(0, 9)}
        for method in ("m", "mean", "noise ceiling")
        for seed in (0, 1)
        for fold, patient in (("1", "01"), ("2.0", "1"), ("NA", None))
        for gene in GENES
    ]
    per_gene = pd.DataFrame(rows)
    per_gene.loc[per_gene["method"] == "mean", "pearson"] = np.nan
    runs = per_gene[["method", "seed", "fold"]].drop_duplicates(ignore_index=True)
    runs = runs.query("method != 'noise ceiling'").reset_index(drop=True)
    runs = runs.assign(
        seconds=rng.lognormal(size=len(runs)), peak_memory_mb=200.0, n_train=7, note=""
    )
    runs.loc[0, "note"] = "penalty 1e+07, by patient"
    obs = pd.DataFrame(
        {"slide": ["01", "02.0"], "patient": ["01", None], "fold": ["1", "2.0"]}, index=["a", "b"]
    ).astype("category")
    values = rng.normal(size=(2, len(GENES))).astype(np.float32)
    values[0, 0] = np.nan
    predictions = ad.AnnData(
        values, obs=obs, var=pd.DataFrame(index=GENES), layers={"m": values**2}
    )
    predictions.obsm["spatial"] = rng.normal(size=(2, 2))
    provenance = {
        "folds": [{"name": "1", "test": {"01": 1}}],
        "groups": "patient",
        "seeds": [0, 1],
        "panel": "6 genes",
        "backbone": {"name": "test_resnet", "pretrained": False},
        "tile": {"um": 112.1, "px": 32},
        "allow_leaks": [],
    }
    names = {"methods": ("m",), "baselines": ("mean",), "references": ("noise ceiling",)}
    return CrossValidation(per_gene, predictions, runs, provenance=provenance, **names)


@pytest.fixture
def folder(result: CrossValidation, tmp_path: Path) -> Path:
    result.save(tmp_path / "scores")
    return tmp_path / "scores"


def test_a_loaded_result_equals_the_saved_one_to_the_last_digit(
    result: CrossValidation, folder: Path, tmp_path: Path
) -> None:
    again = load_result(folder)
    exact: dict[str, Any] = {"check_exact": True}
    pd.testing.assert_frame_equal(again.per_gene, result.per_gene, **exact)
    pd.testing.assert_frame_equal(again.runs, result.runs, **exact)
    pd.testing.assert_frame_equal(again.summary, result.summary, **exact)
    pd.testing.assert_frame_equal(again.predictions.obs, result.predictions.obs)
    assert list(again.predictions.var_names) == GENES
    np.testing.assert_array_equal(again.predictions.X, result.predictions.X)
    np.testing.assert_array_equal(again.predictions.layers["m"], result.predictions.layers["m"])
    assert again.provenance == result.provenance
    assert (again.methods, again.baselines, again.references) == (
        result.methods, result.baselines, result.references,
    )  # fmt: skip
    assert again.to_json() == result.to_json()
    assert again.to_markdown() == result.to_markdown()
    again.save(tmp_path / "again")
    pd.testing.assert_frame_equal(load_result(tmp_path / "again").per_gene, result.per_gene)


def test_numbers_of_the_json_file_have_all_of_their_digits(
    result: CrossValidation, folder: Path
) -> None:
    record = json.loads((folder / "result.json").read_text())
    assert record["summary"]["m"]["pearson"] == result.summary.loc["m", "pearson"]
    assert record["summary"]["mean"]["pearson"] is None
    assert [run["seconds"] for run in record["runs"]] == result.runs["seconds"].tolist()


def test_whatever_is_damaged_is_named(folder: Path) -> None:
    for name in ("per_gene.csv", "runs.csv", "summary.csv", "predictions.h5ad", "result.json"):
        data = (folder / name).read_bytes()
        changed = bytearray(data)
        place = data.rfind(b"1")
        changed[place] = ord("2")
        (folder / name).write_bytes(bytes(changed))
        with pytest.raises(InputValueError, match=name.replace(".", r"\.")):
            load_result(folder)
        (folder / name).unlink()
        with pytest.raises(InputValueError, match=name.replace(".", r"\.")):
            load_result(folder)
        (folder / name).write_bytes(data)
    load_result(folder)


@pytest.mark.parametrize("change", [{"format": 1}, {"methods": 3}, {"provenance": None}])
def test_other_records_are_refused(folder: Path, change: dict[str, Any]) -> None:
    record = json.loads((folder / "result.json").read_text()) | change
    del record["checksum"]
    sealed = record | {"checksum": record_checksum(record)}
    (folder / "result.json").write_text(json.dumps(sealed))
    with pytest.raises(InputValueError, match=r"result\.json"):
        load_result(folder)


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputValueError, match=r"result\.json cannot be read"):
            load_result(path)
    (tmp_path / "result.json").write_text("[1")
    with pytest.raises(InputValueError, match="cannot be read as JSON"):
        load_result(tmp_path)
