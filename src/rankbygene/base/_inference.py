"""From tiles to arrays: one pass over the tiles of a slide, in batches, on one device."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np
import torch

from rankbygene._checks import check_choice
from rankbygene.errors import InputValueError, TrainingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Tiles that are applied to the network together.
BATCH_SIZE = 64

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
AnyPrecision = Precision | Literal["auto"]
# Results hang on no device's taste.
FULL: Precision = "32-true"


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """Check a device; by default the GPU of this process where there is one, else the CPU.

    Of several processes on a machine, ``torchrun`` numbers each in ``LOCAL_RANK``.

    Raises
    ------
    InputValueError
        The device cannot be used here.
    """
    if device is None:
        local = int(os.environ.get("LOCAL_RANK", 0))
        return torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        msg = f"device={device!r} cannot be used here ({error}); pass 'cpu', or none to choose"
        raise InputValueError(msg) from error
    return place


def check_precision(precision: object) -> str:
    """Check the name of a precision."""
    name: str = check_choice(precision, "precision", ("auto", *get_args(Precision)))
    return name


def choose_precision(precision: str, device: torch.device) -> Precision:
    """Check a precision, and fill in ``"auto"``.

    That is bfloat16 autocast on a GPU that computes it natively, else float32: some CPUs compute
    bfloat16 natively as well, and the same seed would give other numbers there than elsewhere.

    Raises
    ------
    InputTypeError, InputValueError
        The precision is not known.
    """
    chosen = check_precision(precision)
    if chosen != "auto":
        return cast("Precision", chosen)
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if native else FULL


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Context in which a forward pass runs at ``precision``."""
    dtype = autocast_dtype(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def autocast_dtype(precision: str) -> torch.dtype | None:
    """Type that autocast computes in at ``precision``, None where there is no autocast."""
    return {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)


def rebatch(
    stream: Iterable[tuple[NDArray[np.intp], NDArray[np.uint8]]], size: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.uint8]]]:
    """Regroup a stream of (rows, tiles) into batches of ``size``; the last may be smaller."""
    rows: list[NDArray[np.intp]] = []
    tiles: list[NDArray[np.uint8]] = []
    waiting = 0
    for more_rows, more_tiles in stream:
        rows.append(more_rows)
        tiles.append(more_tiles)
        waiting += len(more_rows)
        if waiting >= size:
            all_rows, all_tiles = np.concatenate(rows), np.concatenate(tiles)
            full = waiting - waiting % size
            for start in range(0, full, size):
                yield all_rows[start : start + size], all_tiles[start : start + size]
            rows, tiles, waiting = [all_rows[full:]], [all_tiles[full:]], waiting - full
    if waiting:
        yield np.concatenate(rows), np.concatenate(tiles)


def run_over_tiles(
    forward: Callable[[torch.Tensor], dict[str, torch.Tensor]],
    stream: Iterable[tuple[NDArray[np.intp], NDArray[np.uint8]]],
    n_obs: int,
    *,
    device: torch.device,
    batch_size: int,
    precision: str = FULL,
) -> dict[str, NDArray[np.float32]]:
    """Apply ``forward`` to every tile of a stream; results are float32 whatever the precision.

    Parameters
    ----------
    forward
        Maps uint8 images ``[B, 3, px, px]`` to named float tensors ``[B, ...]``.
    stream
        Pairs of rows and tiles, in any order.
    n_obs
        Number of rows of the results.
    precision
        Of the forward pass, as for :func:`choose_precision`.

    Returns
    -------
    Per name a float32 array ``[n_obs, ...]``, row ``i`` for row ``i`` of the stream.
    """
    precision = choose_precision(precision, device)
    blocks = rebatch(stream, batch_size)

    def as_float(images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: values.float() for name, values in forward(images).items()}

    found = collect(as_float, blocks, n_obs, device=device, precision=precision)
    return {name: values.numpy() for name, values in found.items()}


def collect(
    forward: Callable[[torch.Tensor], dict[str, torch.Tensor]],
    blocks: Iterable[tuple[NDArray[np.intp], NDArray[np.uint8]]],
    n_obs: int,
    *,
    device: torch.device,
    precision: str,
) -> dict[str, torch.Tensor]:
    """Apply ``forward`` block by block; the next is under way before the last one is waited for."""
    out: dict[str, torch.Tensor] = {}
    waiting: list[Callable[[], None]] = []
    with torch.no_grad(), autocast(device, precision):
        for rows, tiles in blocks:
            values = forward(_send(tiles, device))
            waiting.append(_receive(values, rows, n_obs, out))
            if len(waiting) > 1:
                waiting.pop(0)()
    for store in waiting:
        store()
    return out


def finite(values: dict[str, NDArray[np.float32]], place: str) -> dict[str, NDArray[np.float32]]:
    """Hand results on if they are numbers.

    Raises
    ------
    TrainingError
        Some are not; how many of what, and of which slide.
    """
    broken = {name: n for name, array in values.items() if (n := int((~np.isfinite(array)).sum()))}
    if broken:
        texts = [f"{n:,} of {values[name].size:,} values of {name}" for name, n in broken.items()]
        msg = (
            f"slide {place!r}: {' and '.join(texts)} are not finite, so that nothing is given or "
            "written; the model's weights cannot be used: train it again, with a lower learning rate or "
            "precision='32-true'"
        )
        raise TrainingError(msg)
    return values


def _send(tiles: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    images = torch.from_numpy(np.ascontiguousarray(tiles))
    if device.type == "cuda":  # only from pinned memory is the copy not waited for
        images = images.pin_memory()
    return images.to(device, non_blocking=True)


def _receive(
    values: dict[str, torch.Tensor],
    rows: NDArray[np.intp],
    n_obs: int,
    out: dict[str, torch.Tensor],
) -> Callable[[], None]:
    """Begin to copy results back; the call that is returned waits for them and stores them."""
    on_gpu = any(tensor.is_cuda for tensor in values.values())
    copies = {name: tensor.to("cpu", non_blocking=on_gpu) for name, tensor in values.items()}
    arrived = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]
    if arrived is not None:
        arrived.record()

    def store() -> None:
        if arrived is not None:
            arrived.synchronize()
        for name, tensor in copies.items():
            if name not in out:
                out[name] = torch.empty((n_obs, *tensor.shape[1:]), dtype=tensor.dtype)
            out[name][torch.from_numpy(rows)] = tensor

    return store
