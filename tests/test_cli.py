from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

import rankbygene
from rankbygene import cli
from rankbygene.errors import TrainingError

runner = CliRunner()


def test_version_is_clean_and_light() -> None:
    code = (
        "import sys; from rankbygene.cli import app\n"
        "try: app(['--version'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'scvi', 'spatialdata', 'anndata', 'matplotlib', 'pandas'}\n"
        "assert not heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"rankbygene {rankbygene.__version__}\n"
    assert done.stderr == ""


@pytest.fixture(scope="module")
def stores(make_slides: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("stores")
    paths = [folder / f"{name}.zarr" for name in "abc"]
    for path, sdata in zip(paths, make_slides(3), strict=True):
        sdata.write(path)
    return paths


@pytest.fixture(scope="module")
def fitted(stores: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fitted")
    done = runner.invoke(
        cli.app,
        [
            "fit",
            str(stores[0]),
            str(stores[1]),
            "--out",
            str(out / "a.zarr"),
            "--out",
            str(out / "b.zarr"),
            "--model-dir",
            str(out / "model"),
            "--genes",
            "8",
            "--backbone",
            "test_resnet",
            "--no-pretrained",
            "--max-epochs",
            "1",
            "--batch-size",
            "16",
            "--accelerator",
            "cpu",
        ],
    )
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    return out


def test_fit_leaves_annotated_stores_and_a_model(fitted: Path) -> None:
    from spatialdata import read_zarr

    assert sorted(path.name for path in fitted.iterdir()) == ["a.zarr", "b.zarr", "model"]
    table = read_zarr(fitted / "a.zarr")["table"]
    assert "X_rankbygene" in table.obsm
    assert table.var["rankbygene_panel"].sum() == 8
    assert rankbygene.model.RankByGene.load(fitted / "model").is_trained_


def test_another_method_is_fitted_and_recognised(stores: list[Path], tmp_path: Path) -> None:
    from spatialdata import read_zarr

    model, out = str(tmp_path / "model"), str(tmp_path / "a.zarr")
    train = ["fit", str(stores[0]), str(stores[1]), "--out", out, "--out", str(tmp_path / "b.zarr")]
    network = ["--genes", "8", "--backbone", "test_resnet", "--no-pretrained"]
    training = ["--max-epochs", "1", "--batch-size", "16", "--accelerator", "cpu"]
    done = runner.invoke(
        cli.app,
        [*train, "--model-dir", model, "--method", "nh2st", *network, *training]
        + ["--cache-dir", str(tmp_path / "cache")],
    )
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2
    assert "X_nh2st" in read_zarr(out)["table"].obsm
    done = runner.invoke(
        cli.app, ["predict", model, str(stores[2]), "--out", str(tmp_path / "c.zarr")]
    )
    assert done.exit_code == 0, done.output
    assert "X_nh2st" in read_zarr(tmp_path / "c.zarr")["rankbygene"].obsm
    done = runner.invoke(
        cli.app,
        ["fit", str(stores[0]), "--out", str(tmp_path / "d.zarr"), "--model-dir", model + "2"]
        + ["--method", "other"],
    )
    assert done.exit_code == 2
    assert "'nh2st'" in done.stderr


def test_predict_and_evaluate_use_the_saved_model(
    fitted: Path, stores: list[Path], tmp_path: Path
) -> None:
    from spatialdata import read_zarr

    model = str(fitted / "model")
    done = runner.invoke(
        cli.app, ["predict", model, str(stores[2]), "--out", str(tmp_path / "out.zarr")]
    )
    assert done.exit_code == 0, done.output
    whole = read_zarr(tmp_path / "out.zarr")
    assert whole["rankbygene"].n_vars == 8
    done = runner.invoke(
        cli.app,
        ["predict", model, str(stores[2]), "--out", str(tmp_path / "t.zarr"), "--table-only"]
        + ["--device", "cpu"],
    )
    assert done.exit_code == 0, done.output
    alone = read_zarr(tmp_path / "t.zarr")
    assert not alone.images
    assert sorted(alone["rankbygene"].obs_names) == sorted(whole["rankbygene"].obs_names)
    done = runner.invoke(
        cli.app,
        [
            "evaluate",
            model,
            str(stores[2]),
            "--train",
            str(stores[0]),
            "--train",
            str(stores[1]),
            "--baselines",
            "mean,color",
            "--json",
        ],
    )
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert list(result["methods"]) == ["rankbygene", "mean", "color"]
    assert result["n_spots"] == {"c": 40}


def test_what_fit_wrote_is_not_scored_as_unseen(
    fitted: Path, stores: list[Path], tmp_path: Path
) -> None:
    """The slides that a model was fitted on come back under any name, with its results in them."""
    shutil.copytree(fitted / "a.zarr", tmp_path / "someone else.zarr")
    train = [f"--train={stores[0]}", f"--train={stores[1]}"]
    for path in (fitted / "a.zarr", tmp_path / "someone else.zarr", stores[1]):
        done = runner.invoke(
            cli.app, ["evaluate", str(fitted / "model"), str(stores[2]), str(path), *train]
        )
        assert done.exit_code == 2, done.output
        text = done.stderr.replace("\n", " ")
        assert f"spots of slide {path.stem!r} were used in training" in text
        assert "slide 'c'" not in text
        assert done.stdout == ""


def test_each_region_is_cut_from_the_image_that_is_named_for_it(
    stores: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two slides of one object in one system, where nothing is guessed."""
    import spatialdata as sd
    from spatialdata import read_zarr

    slides = [read_zarr(path) for path in stores[:2]]
    joined = sd.concatenate(slides, concatenate_tables=True)
    joined.write(tmp_path / "both.zarr")
    usual = [str(tmp_path / "both.zarr"), "--no-pretrained", "--backbone=test_resnet", "--genes=8"]
    commands = {
        "fit": [*usual, f"--out={tmp_path / 'o.zarr'}", f"--model-dir={tmp_path / 'm'}"],
        "cross-validate": [*usual, f"--out={tmp_path / 'o'}", "--groups=slide"],
    }
    regions = list(joined.shapes)
    images = list(joined.images)
    crossed = dict(zip(regions, reversed(images), strict=True))
    for command, arguments in commands.items():
        found: dict[str, str] = {}

        def caught(frames: Any, *args: Any, found: dict[str, str] = found, **kwargs: Any) -> None:
            found |= {frame.region: frame.image_key for frame in frames.values()}
            raise TrainingError("far enough")

        place = {
            "fit": "base.spots._model.split_spots",
            "cross-validate": "tl.cross_validation._cross_validate.make_folds",
        }
        monkeypatch.setattr(f"rankbygene.{place[command]}", caught)
        done = runner.invoke(cli.app, [command, *arguments])
        assert done.exit_code == 2, done.output  # two images, and nobody said which
        for region, image in crossed.items():
            arguments = [*arguments, "--image-key", f"{region}={image}"]
        done = runner.invoke(cli.app, [command, *arguments])
        assert "far enough" in done.stderr, done.output
        assert found == crossed
        done = runner.invoke(cli.app, [command, *arguments, "--image-key", f"{regions[0]}=x"])
        assert done.exit_code == 2
        assert "names a region twice" in done.stderr.replace("\n", " ")


def test_bad_input_is_status_2_and_leaves_nothing(
    fitted: Path, stores: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.zarr"
    broken.mkdir()
    common = ["--model-dir", str(tmp_path / "m"), "--out", str(tmp_path / "o.zarr")]
    for arguments, text in (
        (["fit", str(broken), *common], "cannot be read as a SpatialData store"),
        (["fit", str(stores[0]), *common, "--table-key", "counts"], "counts"),
        (["fit", str(stores[0]), *common, "--genes", "none.txt"], "none.txt"),
        (
            ["fit", str(stores[0]), *common, "--out", str(tmp_path / "p.zarr")],
            "each slide needs its own --out",
        ),
        (
            [
                "fit",
                str(stores[0]),
                "--model-dir",
                str(fitted / "model"),
                "--out",
                str(tmp_path / "o"),
            ],
            "already there",
        ),
        (["predict", str(broken), str(stores[0]), "--out", str(tmp_path / "o.zarr")], "model.json"),
    ):
        done = runner.invoke(cli.app, arguments)
        assert done.exit_code == 2, done.output
        assert text in done.stderr.replace("\n", " ")
        assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["broken.zarr"]


TEXT = ("", " ", "a,,b", "no such thing")
IMAGE = (*TEXT, "=", "a=", "=a", "no such region=slide_0_image", "slide_0_spots=no such image")
COUNT = ("", "x", "1.5", "nan", "0", "-1", "9" * 30)
REAL = ("", "x", "nan", "inf", "-1", "0", "1e30")
# Keys that a slide does not have are judged when it is read; these name what is made, or may be empty.
ODD_OPTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "fit": {
        **dict.fromkeys(("table-key", "layer", "coordinate-system"), TEXT), "image-key": IMAGE,
        **dict.fromkeys(("patient-key", "method", "fine-tune", "accelerator", "precision"), TEXT),
        "backbone": TEXT, "um-per-px": REAL, "genes": (*COUNT, "FOLDER", "EMPTY", "BYTES"),
        "weights": ("", "FOLDER", "NOWHERE", "BYTES"), "cache-dir": ("", "FILE", "FILE/x"),
        "out": ("", "FILE", "FILE/x"), "model-dir": ("", "FILE", "FILE/x"), "key-added": ("", " ", "a/b", ".a"),
        **dict.fromkeys(("n-last", "max-epochs", "batch-size"), COUNT),
        "seed": ("", "x", "1.5", "-1", "9" * 30),
    },
    "predict": {
        **dict.fromkeys(("image-key", "shapes-key", "coordinate-system", "device", "precision"), TEXT),
        "table-key": ("", " ", "a/b", ".a"), "um-per-px": REAL, "step-um": REAL[:-1],
        "out": ("", "FILE", "FILE/x"),
    },
    "evaluate": {
        "baselines": TEXT, "precision": TEXT, "um-per-px": REAL, "train": ("", "FILE", "NOWHERE", "FOLDER"),
    },
    "cross-validate": {
        **dict.fromkeys(("method", "groups", "allow-leaks", "baselines", "fold", "backbone"), TEXT),
        **dict.fromkeys(("table-key", "layer", "coordinate-system"), TEXT), "image-key": IMAGE,
        **dict.fromkeys(("patient-key", "accelerator", "precision"), TEXT),
        "store": ("", "FILE", "FILE/x"), "out": ("", "FILE", "FILE/x"),
        "seeds": ("", "x", "-1", "1.5", "0,,1", "0,0", "none", "9" * 30, "\N{SUPERSCRIPT TWO}"),
        "genes": (*COUNT, "FOLDER", "EMPTY", "BYTES"), "weights": ("", "FOLDER", "NOWHERE", "BYTES"),
        "um-per-px": REAL, "tile-um": REAL[:-1],
        **dict.fromkeys(("n-splits", "tile-px", "max-epochs", "batch-size"), COUNT),
        "jobs": ("", "x", "1.5", "nan", "0", "-1"),
    },
    "hest-bench": {
        **dict.fromkeys(("encoder", "tasks", "baselines", "variant", "device", "precision"), TEXT),
        "weights": ("", "FOLDER", "NOWHERE"), "out": ("", "FILE", "FILE/x"), "batch-size": COUNT,
        "seed": ("", "x", "1.5", "-1", "9" * 30),
    },
    "demo": {"out": ("", "FILE", "FILE/x"), "seed": ("", "x", "1.5", "-1", "9" * 30)},
}  # fmt: skip


def test_every_option_is_tried() -> None:
    for name, command in typer.main.get_command(cli.app).commands.items():  # type: ignore[attr-defined]
        given = {p.opts[-1] for p in command.params if p.param_type_name == "option"}
        flags = {p.opts[-1] for p in command.params if getattr(p, "is_flag", False)}
        flags |= {"--help", "--pretrained"}
        assert given - flags == {f"--{option}" for option in ODD_OPTIONS.get(name, {})}


@pytest.mark.parametrize(
    ("command", "option"), [(c, option) for c, options in ODD_OPTIONS.items() for option in options]
)
def test_odd_options_are_status_2_and_write_nothing(
    command: str, option: str, fitted: Path, stores: list[Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def reached(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("an odd value reached the training")

    monkeypatch.setattr("rankbygene.base.spots._model.run_training", reached)
    (tmp_path / "folder").mkdir()
    (tmp_path / "work").mkdir()
    (tmp_path / "empty").write_text("")
    (tmp_path / "file").write_bytes(b"\xff\xfe\0")
    monkeypatch.chdir(tmp_path / "work")
    tiny = [
        "--backbone=test_resnet",
        "--no-pretrained",
        "--accelerator=cpu",
        "--genes=8",
        "--batch-size=8",
    ]
    slides = [str(path) for path in stores]
    usual = {
        "fit": [slides[0], "--model-dir=m", *tiny],
        "predict": [str(fitted / "model"), slides[2]],
        "evaluate": [str(fitted / "model"), slides[2], f"--train={slides[0]}", f"--train={slides[1]}"],
        "cross-validate": [*slides[:2], "--groups=slide", *tiny],
        "hest-bench": [str(tmp_path / "folder"), "--encoder=test_resnet", "--no-pretrained"],
        "demo": [],
    }[command]  # fmt: skip
    if command not in ("evaluate", "demo") and option != "out":
        usual = [*usual, "--out=o"]
    if command == "fit" and option == "n-last":
        usual = [*usual, "--fine-tune=last_n"]
    before = sorted(tmp_path.rglob("*"))
    places = {
        "FOLDER": "folder",
        "EMPTY": "empty",
        "BYTES": "file",
        "FILE": "file",
        "NOWHERE": "no",
    }
    for value in ODD_OPTIONS[command][option]:
        head, *tail = value.split("/", 1)
        text = "/".join([str(tmp_path / places[head]), *tail]) if head in places else value
        done = runner.invoke(cli.app, [command, *usual, f"--{option}={text}"])
        assert done.exit_code == 2, (value, done.output, done.exception)
        assert isinstance(done.exception, SystemExit) and "Traceback" not in done.stderr
        assert done.stdout == ""
        assert done.stderr.strip()
        assert sorted(tmp_path.rglob("*")) == before, value


def test_a_failure_while_running_is_status_1_and_leaves_nothing(
    stores: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise TrainingError("the loss is not finite at step 3: contrast")

    monkeypatch.setattr("rankbygene.model.fit", fail)
    done = runner.invoke(
        cli.app,
        [
            "fit",
            str(stores[0]),
            "--model-dir",
            str(tmp_path / "m"),
            "--out",
            str(tmp_path / "o.zarr"),
        ],
    )
    assert done.exit_code == 1
    assert "not finite at step 3" in done.stderr
    assert not list(tmp_path.iterdir())


def test_demo_writes_everything_and_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rankbygene.cli import _demo

    monkeypatch.setattr(_demo, "N_SPOTS", 70)
    monkeypatch.setattr(_demo, "N_PATIENTS", 3)
    monkeypatch.setattr(
        _demo.run_demo, "__kwdefaults__", {**_demo.run_demo.__kwdefaults__, "max_epochs": 2}
    )
    done = runner.invoke(cli.app, ["demo", "--out", str(tmp_path / "demo")])
    assert done.exit_code == 0, done.output
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert names == {"held_out.zarr", "model", "prediction.png", "scores.csv", "scores.png"}
    assert "rankbygene" in done.stdout
    assert "backbone" in done.stdout
    scores = pd.read_csv(tmp_path / "demo" / "scores.csv")
    assert set(scores["method"]) == {"rankbygene", "mean", "color", "backbone"}
    again = runner.invoke(cli.app, ["demo", "--out", str(tmp_path / "demo")])
    assert again.exit_code == 2


def test_folds_of_an_array_of_jobs_are_joined(make_slides: Any, tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{name}.zarr") for name in "abc"]
    for path, sdata in zip(paths, make_slides(3, n_patients=3), strict=True):
        sdata.write(path)
    shared = [
        "cross-validate", *paths, "--method", "ridge", "--baselines", "mean", "--genes", "8",
        "--backbone", "test_resnet", "--no-pretrained", "--tile-px", "32", "--store", str(tmp_path / "store"),
    ]  # fmt: skip
    for fold in ("0", "1", "patient_2"):
        done = runner.invoke(cli.app, [*shared, "--fold", fold, "--out", str(tmp_path / fold)])
        assert done.exit_code == 0, done.stderr
    done = runner.invoke(cli.app, [*shared, "--out", str(tmp_path / "all")])
    assert done.exit_code == 0, done.stderr
    assert "noise ceiling" in done.stdout
    summary = pd.read_csv(tmp_path / "all" / "summary.csv", index_col="method")
    parts = pd.concat(
        pd.read_csv(tmp_path / fold / "per_gene.csv") for fold in ("0", "1", "patient_2")
    )
    ridge = parts.query("method == 'ridge'").groupby("gene")["pearson"].mean().mean()
    assert summary.loc["ridge", "pearson"] == pytest.approx(ridge)
    again = runner.invoke(cli.app, [*shared, "--out", str(tmp_path / "all")])
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    other = runner.invoke(cli.app, [*shared, "--genes", "9", "--out", str(tmp_path / "other")])
    assert other.exit_code == 2
    assert "another study" in other.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_processes_of_a_launcher_share_one_slide(
    fitted: Path, stores: list[Path], tmp_path: Path
) -> None:
    from spatialdata import read_zarr

    predict = [sys.executable, "-m", "rankbygene", "predict", str(fitted / "model"), str(stores[2])]
    options = ["--table-only", "--device", "cpu", "--step-um", "20", "--out"]
    ranks = [
        subprocess.Popen(
            [*predict, *options, str(tmp_path / "shared.zarr")],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    alone = tmp_path / "alone.zarr"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*predict, *options, str(alone)], check=True, env=environment)
    tables = [read_zarr(path)["rankbygene"] for path in (tmp_path / "shared.zarr", alone)]
    assert tables[0].n_obs > 1024  # a part for each rank
    assert list(tables[0].obs_names) == list(tables[1].obs_names)
    np.testing.assert_array_equal(tables[0].X, tables[1].X)
    np.testing.assert_array_equal(tables[0].obsm["X_rankbygene"], tables[1].obsm["X_rankbygene"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.zarr", "shared.zarr"]
