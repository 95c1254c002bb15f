"""Arguments and options that the commands of the command line take, each described and read once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rankbygene.errors import InputValueError
from rankbygene.methods._registry import names as method_names

Slides = Annotated[
    list[Path],
    typer.Argument(metavar="SLIDE...", exists=True, file_okay=False, help="SpatialData stores."),
]
Slide = Annotated[
    Path, typer.Argument(metavar="SLIDE", exists=True, file_okay=False, help="SpatialData store.")
]
ModelFolder = Annotated[
    Path, typer.Argument(metavar="MODEL", exists=True, file_okay=False, help="A saved model.")
]
ModelDir = Annotated[Path, typer.Option(help="Folder to write the trained model to.")]
Out = Annotated[Path, typer.Option(help="Store to write.")]
Outs = Annotated[
    list[Path], typer.Option(help="Store to write; once per slide, in the order of the slides.")
]
TableOnly = Annotated[
    bool,
    typer.Option(
        "--table-only",
        help="Write only the table and its shapes, part by part: in little memory, by several processes "
        "under torchrun, and the same command after an interruption goes on.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]

TableKey = Annotated[str, typer.Option(help="Table with the counts.")]
NewTableKey = Annotated[str, typer.Option(help="Name of the table to add.")]
ImageKey = Annotated[str | None, typer.Option(help="The H&E image.")]
ImageKeys = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[REGION=]IMAGE",
        help="The H&E image, or that of one region as REGION=IMAGE; repeat for other regions.",
    ),
]
ShapesKey = Annotated[
    str | None, typer.Option(help="Shapes to predict at; by default tiles of the tissue.")
]
Layer = Annotated[str | None, typer.Option(help="Layer of integer counts; by default X.")]
CoordinateSystem = Annotated[str | None, typer.Option(help="System in which spots and image meet.")]
PatientKey = Annotated[str | None, typer.Option(help="Column of obs that names the patient.")]
UmPerPx = Annotated[
    float | None,
    typer.Option(help="Micrometres per pixel of the full-resolution image, if nothing tells it."),
]
StepUm = Annotated[
    float | None, typer.Option(help="Distance between tiles; by default their width.")
]

Method = Annotated[str, typer.Option(help=f"One of {', '.join(method_names())}.")]
Genes = Annotated[
    str, typer.Option(help="How many genes to choose, or a file with one gene per line.")
]
Backbone = Annotated[str, typer.Option(help="Image encoder: a timm name, hf-hub:ID, uni2, ...")]
Pretrained = Annotated[bool, typer.Option(help="Start from the encoder's published weights.")]
Weights = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="Local file with the encoder's weights."),
]
FineTune = Annotated[
    str, typer.Option(help="Weights of the encoder to train: full, last_n, lora or none.")
]
NLast = Annotated[int | None, typer.Option(min=1, help="Blocks to train with --fine-tune last_n.")]
MaxEpochs = Annotated[
    int | None, typer.Option(min=1, help="By default chosen from the number of spots.")
]
BatchSize = Annotated[int, typer.Option(min=2, help="Spots that the losses see at once.")]
Accelerator = Annotated[str, typer.Option(help="auto, cpu, gpu, ...")]
CacheDir = Annotated[
    Path | None,
    typer.Option(file_okay=False, help="Folder that keeps the tiles for the next run."),
]
KeyAdded = Annotated[str | None, typer.Option(help="Prefix of the keys that are written.")]
Seed = Annotated[int, typer.Option(help="Repeats a run exactly on a CPU.")]

Train = Annotated[
    list[Path],
    typer.Option(exists=True, file_okay=False, help="Training slide of the model; repeat."),
]
Baselines = Annotated[str, typer.Option(help="Baselines to score beside it, or 'none'.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
DemoOut = Annotated[Path, typer.Option(help="Folder to write.")]

StoreToRepair = Annotated[
    Path,
    typer.Argument(metavar="STORE", exists=True, file_okay=False, help="SpatialData store."),
]
Apply = Annotated[bool, typer.Option("--apply", help="Mend what is found; by default it is said.")]

BenchFolder = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER", exists=True, file_okay=False, help="The downloaded folder of HEST-Bench."
    ),
]
Encoder = Annotated[str, typer.Option(help="Image encoder: a timm name, hf-hub:ID, uni2, ...")]
Report = Annotated[Path, typer.Option(help="JSON file to write.")]
Tasks = Annotated[
    str | None, typer.Option(help="Tasks such as IDC,PRAD; by default the nine of the benchmark.")
]
Variant = Annotated[
    str, typer.Option(help="corrected, or released: undefined genes make the average NaN.")
]
EncoderBatch = Annotated[int, typer.Option(min=1, help="Patches that are encoded at once.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, ...; by default a GPU if there is one.")
]
TrainPrecision = Annotated[
    str,
    typer.Option(
        "--precision",
        help="Of training: auto (bfloat16 on GPUs that compute it natively, else float32), 32-true, "
        "bf16-mixed or 16-mixed.",
    ),
]
ResultPrecision = Annotated[
    str,
    typer.Option("--precision", help="Of the network: 32-true, bf16-mixed, 16-mixed or auto."),
]
Precision = Annotated[str | None, typer.Option(help="32-true, bf16-mixed or 16-mixed.")]
BenchSeed = Annotated[int, typer.Option(help="Of the principal components; the benchmark's is 1.")]

Methods = Annotated[str, typer.Option(help="Methods to judge, such as rankbygene,nh2st.")]
Groups = Annotated[
    str,
    typer.Option(help="What stays together: patient, slide, block, spot or a column of obs."),
]
Splits = Annotated[
    int | None, typer.Option(min=2, help="Number of folds; by default one per group.")
]
Leaks = Annotated[str | None, typer.Option(help="Leaks to accept by name: patient, window.")]
Store = Annotated[
    Path | None,
    typer.Option(
        file_okay=False, help="Folder that keeps finished folds; a new run goes on there."
    ),
]
OnlyFolds = Annotated[
    list[str] | None, typer.Option(help="Compute this fold only, by name or number; repeat.")
]
Seeds = Annotated[str, typer.Option(help="Seeds, such as 0,1,2; each repeats every fold.")]
ResultFolder = Annotated[Path, typer.Option(help="Folder to write the scores into.")]
TileUm = Annotated[float | None, typer.Option(help="Width of a tile in micrometres.")]
TilePx = Annotated[int | None, typer.Option(help="Width of a tile in pixels.")]
Jobs = Annotated[int, typer.Option(min=1, help="Folds that are computed at the same time.")]


def names(text: str) -> Any:
    """Split a list at its commas; ``none`` is an empty one."""
    found = [] if text == "none" else [name.strip() for name in text.split(",")]
    if not all(found):
        msg = f"{text!r} has an empty name between its commas; pass names such as a,b, or none"
        raise InputValueError(msg)
    return found


def image_key(given: Sequence[str] | None) -> str | dict[str, str] | None:
    """Take ``--image-key`` as the image of all regions, or as ``{region: image}``."""
    pairs = [text.partition("=") for text in given or ()]
    if not pairs:
        return None
    if len(pairs) == 1 and not pairs[0][1]:
        return pairs[0][0]
    odd = [
        text
        for text, (region, _, image) in zip(given or (), pairs, strict=True)
        if not (region and image)
    ]
    if odd:
        msg = (
            f"--image-key {odd[0]!r} does not say of which region; pass one image for all, or REGION=IMAGE "
            "for each region"
        )
        raise InputValueError(msg)
    images = {region: image for region, _, image in pairs}
    if len(images) < len(pairs):
        msg = f"--image-key names a region twice: {', '.join(given or ())}; pass one image for each"
        raise InputValueError(msg)
    return images


def whole_number(text: str, option: str) -> int:
    """Read one number of an option that takes several."""
    if not text.isdecimal():
        msg = f"{option} takes whole numbers separated by commas; found {text!r}"
        raise InputValueError(msg)
    return int(text)


def panel(genes: str) -> int | list[str]:
    """Take ``--genes`` as a number, or as the file that lists them."""
    if genes.isdecimal():
        return int(genes)
    path = Path(genes)
    if not path.is_file():
        msg = f"--genes {genes!r} is neither a number nor a file with one gene per line"
        raise InputValueError(msg)
    try:
        found = path.read_text(encoding="utf-8").split()
    except UnicodeDecodeError as error:
        msg = f"--genes {genes!r} is no text in UTF-8; pass a file with one gene per line"
        raise InputValueError(msg) from error
    if not found:
        msg = f"--genes {genes!r} names no gene; pass a file with one gene per line"
        raise InputValueError(msg)
    return found
