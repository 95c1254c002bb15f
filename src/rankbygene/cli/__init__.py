"""The command line, made to be a step of a pipeline.

Standard output carries results only; everything else goes to standard error. The exit status is
0 when the work is done, 1 when it failed while running, and 2 when the input or the usage is wrong.
Outputs appear complete or not at all, and an existing one is replaced only with ``--overwrite``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

import rankbygene
from rankbygene.cli import _options as opt
from rankbygene.errors import (
    BackboneError,
    InputKeyError,
    InputTypeError,
    InputValueError,
    OutputExistsError,
    RankByGeneError,
)

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from rankbygene.base.spots._model import SpotModel
    from rankbygene.tl import Evaluation, HestBench

FAILED, BAD_INPUT = 1, 2

app = typer.Typer(
    name="rankbygene",
    help="Gene-guided histology representations and spatial expression from H&E.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line."""
    # A workflow manager stops a step with SIGTERM; unwinding removes what was half written.
    signal.signal(signal.SIGTERM, _stop)
    app()


def _stop(number: int, _frame: Any) -> NoReturn:
    sys.exit(128 + number)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rankbygene {rankbygene.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


@app.command()
def fit(
    slides: opt.Slides,
    out: opt.Outs,
    model_dir: opt.ModelDir,
    table_key: opt.TableKey = "table",
    image_key: opt.ImageKeys = None,
    layer: opt.Layer = None,
    coordinate_system: opt.CoordinateSystem = None,
    patient_key: opt.PatientKey = None,
    um_per_px: opt.UmPerPx = None,
    method: opt.Method = "rankbygene",
    genes: opt.Genes = "250",
    backbone: opt.Backbone = "resnet18",
    pretrained: opt.Pretrained = True,
    weights: opt.Weights = None,
    fine_tune: opt.FineTune = "full",
    n_last: opt.NLast = None,
    max_epochs: opt.MaxEpochs = None,
    batch_size: opt.BatchSize = 64,
    accelerator: opt.Accelerator = "auto",
    precision: opt.TrainPrecision = "auto",
    key_added: opt.KeyAdded = None,
    cache_dir: opt.CacheDir = None,
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
) -> None:
    """Train on slides, save the model, write the annotated slides."""
    with _step():
        if len(out) != len(slides):
            msg = f"each slide needs its own --out: {len(slides)} slides, {len(out)} --out"
            raise InputValueError(msg)
        _check_free([model_dir, *out], overwrite=overwrite)
        _check_kept(cache_dir, "--cache-dir")
        sdatas = _read_slides(slides)
        model = rankbygene.model.fit(
            sdatas,
            method=method,  # type: ignore[arg-type]  # fit names the known ones
            genes=opt.panel(genes),
            backbone=backbone,
            pretrained=pretrained,
            max_epochs=max_epochs,
            table_key=table_key,
            image_key=opt.image_key(image_key),
            layer=layer,
            coordinate_system=coordinate_system,
            patient_key=patient_key,
            um_per_px=um_per_px,
            key_added=key_added,
            precision=precision,  # type: ignore[arg-type]  # train names the known ones
            seed=seed,
            model_kwargs={
                "weights": weights,
                "cache_dir": cache_dir,
                "fine_tune": fine_tune,
                "n_last": n_last,
            },
            train_kwargs={"batch_size": batch_size, "accelerator": accelerator, **_progress()},
        )
        from rankbygene.io import fill_store

        with ExitStack() as outputs:
            model.save(_open_output(outputs, model_dir, overwrite=overwrite), overwrite=True)
            for path, sdata in zip(out, sdatas.values(), strict=True):
                fill_store(sdata, _open_output(outputs, path, overwrite=overwrite))


@app.command()
def predict(
    model_dir: opt.ModelFolder,
    slide: opt.Slide,
    out: opt.Out,
    image_key: opt.ImageKey = None,
    shapes_key: opt.ShapesKey = None,
    table_key: opt.NewTableKey = "rankbygene",
    coordinate_system: opt.CoordinateSystem = None,
    um_per_px: opt.UmPerPx = None,
    step_um: opt.StepUm = None,
    device: opt.Device = None,
    precision: opt.ResultPrecision = "32-true",
    table_only: opt.TableOnly = False,
    overwrite: opt.Overwrite = False,
) -> None:
    """Predict expression on a slide from its image alone."""
    with _step():
        from rankbygene.base._inference import choose_device
        from rankbygene.base.spots._stream import launched

        # Of several processes one may have no share, and come when the others have written the store.
        if not (table_only and launched()[1] > 1):
            _check_free([out], overwrite=overwrite)
        model = _load(model_dir)
        model.to_device(choose_device(device))
        sdata = _read_slide(slide)
        model.predict_slide(
            sdata,
            image_key=image_key,
            shapes_key=shapes_key,
            table_key=table_key,
            coordinate_system=coordinate_system,
            um_per_px=um_per_px,
            step_um=step_um,
            overwrite=overwrite,
            out=out if table_only else None,
            precision=precision,  # type: ignore[arg-type]  # predict_slide names the known ones
        )
        if table_only:
            return
        from rankbygene.io import fill_store

        with ExitStack() as outputs:
            fill_store(sdata, _open_output(outputs, out, overwrite=overwrite))


@app.command()
def evaluate(
    model_dir: opt.ModelFolder,
    slides: opt.Slides,
    train: opt.Train,
    baselines: opt.Baselines = "mean,color,backbone",
    um_per_px: opt.UmPerPx = None,
    precision: opt.ResultPrecision = "32-true",
    as_json: opt.Json = False,
) -> None:
    """Score a model on slides that it has not seen, with baselines beside it."""
    with _step():
        from rankbygene.base._setup import remember_setup

        model = _load(model_dir, train)
        sdatas = _read_slides(slides)
        if um_per_px is not None:
            remember_setup(sdatas, replace(model.setup, um_per_px=um_per_px))
        result = rankbygene.tl.evaluate(
            model,
            sdatas,
            baselines=opt.names(baselines),
            precision=precision,  # type: ignore[arg-type]  # evaluate names the known ones
        )
    typer.echo(_as_json(result) if as_json else _as_table(result))


@app.command()
def cross_validate(
    slides: opt.Slides,
    out: opt.ResultFolder,
    method: opt.Methods = "rankbygene",
    groups: opt.Groups = "patient",
    n_splits: opt.Splits = None,
    allow_leaks: opt.Leaks = None,
    baselines: opt.Baselines = "mean,ridge,backbone_ridge,hest_ridge,mlp,supervised,retrieval",
    store: opt.Store = None,
    fold: opt.OnlyFolds = None,
    seeds: opt.Seeds = "0",
    table_key: opt.TableKey = "table",
    image_key: opt.ImageKeys = None,
    layer: opt.Layer = None,
    coordinate_system: opt.CoordinateSystem = None,
    patient_key: opt.PatientKey = None,
    um_per_px: opt.UmPerPx = None,
    genes: opt.Genes = "250",
    backbone: opt.Backbone = "resnet18",
    pretrained: opt.Pretrained = True,
    weights: opt.Weights = None,
    tile_um: opt.TileUm = None,
    tile_px: opt.TilePx = None,
    max_epochs: opt.MaxEpochs = None,
    batch_size: opt.BatchSize = 64,
    accelerator: opt.Accelerator = "auto",
    precision: opt.TrainPrecision = "auto",
    jobs: opt.Jobs = 1,
    overwrite: opt.Overwrite = False,
) -> None:
    """Judge methods on held-out slides, with baselines beside them."""
    with _step():
        _check_free([out], overwrite=overwrite)
        _check_kept(store, "--store")
        sdatas = _read_slides(slides)
        rankbygene.model.RankByGene.setup_spatialdata(
            sdatas,
            table_key=table_key,
            image_key=opt.image_key(image_key),
            layer=layer,
            coordinate_system=coordinate_system,
            patient_key=patient_key,
            um_per_px=um_per_px,
        )
        options: dict[str, Any] = {
            "allow_leaks": () if allow_leaks is None else opt.names(allow_leaks)
        }
        result = rankbygene.tl.cross_validate(
            sdatas,
            {name: name for name in opt.names(method)},
            groups=groups,
            n_splits=n_splits,
            baselines=opt.names(baselines),
            genes=opt.panel(genes),
            backbone=backbone,
            pretrained=pretrained,
            weights=weights,
            tile_um=tile_um,
            tile_px=tile_px,
            max_epochs=max_epochs,
            precision=precision,  # type: ignore[arg-type]  # train names the known ones
            train_kwargs={"batch_size": batch_size, "accelerator": accelerator, **_progress()},
            seeds=[opt.whole_number(seed, "--seeds") for seed in opt.names(seeds)],
            store=store,
            only_folds=[int(name) if name.isdecimal() else name for name in fold] if fold else None,
            n_jobs=jobs,
            **options,
        )
        result.save(out, overwrite=overwrite)
    typer.echo(str(result))


@app.command()
def hest_bench(
    folder: opt.BenchFolder,
    encoder: opt.Encoder,
    out: opt.Report,
    tasks: opt.Tasks = None,
    pretrained: opt.Pretrained = True,
    weights: opt.Weights = None,
    baselines: opt.Baselines = "mean,ridge",
    variant: opt.Variant = "corrected",
    batch_size: opt.EncoderBatch = 128,
    device: opt.Device = None,
    precision: opt.Precision = None,
    seed: opt.BenchSeed = 1,
    overwrite: opt.Overwrite = False,
) -> None:
    """Score an image encoder by the protocol of HEST-Bench."""
    with _step():
        _check_free([out], overwrite=overwrite)
        options: dict[str, Any] = {"variant": variant, "precision": precision}
        result = rankbygene.tl.hest_bench(
            folder,
            encoder,
            tasks=None if tasks is None else opt.names(tasks),
            pretrained=pretrained,
            weights=weights,
            baselines=opt.names(baselines),
            seed=seed,
            batch_size=batch_size,
            device=device,
            **options,
        )
        result.to_json(out, overwrite=overwrite)
    typer.echo(_as_table(result))


@app.command()
def repair(store: opt.StoreToRepair, apply: opt.Apply = False) -> None:
    """Find what an interrupted write of results did to a store, and mend it with --apply."""
    with _step():
        found = rankbygene.io.repair_store(store, apply=apply)
    for finding in found:
        typer.echo(f"{'done' if apply and finding.remedy else 'found'}: {finding}")
    if not found:
        typer.echo(f"{store} is in order")
    elif not apply:
        typer.echo("nothing was changed; mend it with --apply")


@app.command()
def demo(
    out: opt.DemoOut = Path("rankbygene-demo"),
    seed: opt.Seed = 0,
    overwrite: opt.Overwrite = False,
) -> None:
    """Make synthetic tissue, train on a CPU, score a slide of another patient."""
    with _step():
        from rankbygene.cli._demo import run_demo
        from rankbygene.io import atomic_directory

        _check_free([out], overwrite=overwrite)
        with atomic_directory(out, overwrite=overwrite) as folder:
            result = run_demo(folder, seed=seed, **_progress())
    typer.echo(_as_table(result))
    typer.echo(f"\nwritten to {out}/")
    for path in sorted(out.iterdir()):
        typer.echo(f"  {path.name}")


@contextmanager
def _step() -> Iterator[None]:
    """Keep standard output clean, and turn errors into a message and an exit status."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    # A backbone or a file of weights that cannot be had is one to be named otherwise.
    except (
        InputValueError, InputKeyError, InputTypeError, OutputExistsError, BackboneError,
    ) as error:  # fmt: skip
        _fail(error, BAD_INPUT)
    except (RankByGeneError, OSError) as error:
        _fail(error, FAILED)


def _fail(error: Exception, status: int) -> NoReturn:
    typer.echo(f"rankbygene: {error}", err=True)
    raise typer.Exit(status) from error


def _progress() -> dict[str, Any]:
    """Draw progress bars only for someone who watches."""
    return {"enable_progress_bar": sys.stderr.isatty()}


def _check_free(paths: Sequence[Path], *, overwrite: bool) -> None:
    """Refuse outputs that are in the way before hours of work, not after."""
    taken = [str(path) for path in paths if path.exists()]
    if taken and not overwrite:
        msg = f"already there: {', '.join(taken)}; choose another path or pass --overwrite"
        raise OutputExistsError(msg)
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        msg = f"outputs must differ: {', '.join(map(str, paths))}"
        raise InputValueError(msg)
    for path in paths:
        _check_parents(path)


def _check_kept(folder: Path | None, option: str) -> None:
    """Refuse a folder for what is kept between runs that is none of its own, or can be none."""
    if folder is None:
        return
    # An empty text, such as that of a variable which is not set, is the same path.
    if folder == Path():
        msg = f"{option} is empty or the working directory; name a folder of its own"
        raise InputValueError(msg)
    _check_parents(folder)


def _check_parents(path: Path) -> None:
    files = [parent for parent in path.parents if parent.is_file()]
    if files:
        msg = f"{path} cannot be written: {files[0]} is a file; choose another path"
        raise InputValueError(msg)


def _read_slide(path: Path) -> SpatialData:
    from spatialdata import read_zarr

    from rankbygene.io._update import is_interrupted

    if is_interrupted(path):
        text = f"{path}: a write of results was interrupted; finish it with `rankbygene repair {path} --apply`"
        typer.echo(text, err=True)

    # What a folder that is no store raises depends on which part of it is missing.
    try:
        return read_zarr(path)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        msg = f"{path} cannot be read as a SpatialData store ({type(error).__name__}: {error})"
        raise InputValueError(msg) from error


def _read_slides(paths: Sequence[Path]) -> dict[str, SpatialData]:
    """Read slides, named after their folders so that training and scoring agree on the names."""
    names = [Path(os.path.realpath(path)).stem for path in paths]
    if len(set(names)) < len(names):
        msg = f"slides are named after their folders, which must differ: {', '.join(names)}"
        raise InputValueError(msg)
    return {name: _read_slide(path) for name, path in zip(names, paths, strict=True)}


def _load(model_dir: Path, train: Sequence[Path] = ()) -> SpotModel:
    model: SpotModel = rankbygene.model.load(model_dir, _read_slides(train) if train else None)
    return model


def _open_output(outputs: ExitStack, path: Path, *, overwrite: bool) -> Path:
    """Give the place to write; it takes its final name when ``outputs`` closes without an error."""
    from rankbygene.io import atomic_directory

    place: Path = outputs.enter_context(atomic_directory(path, overwrite=overwrite))
    return place


def _as_table(result: Evaluation | HestBench) -> str:
    text: str = result.summary.to_string(float_format="{:.3f}".format, na_rep="-")
    return text


def _as_json(result: Evaluation) -> str:
    methods = json.loads(result.summary.to_json(orient="index"))
    told = {
        "methods": methods, "n_spots": result.n_spots, "images_seen": list(result.images_seen)
    }  # fmt: skip
    return json.dumps(told, indent=1)
