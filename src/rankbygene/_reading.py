"""One way to say that a file of somebody else's cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rankbygene.errors import InputValueError, RankByGeneError

__all__ = ["reading", "regular_file", "unreadable"]


@contextmanager
def unreadable(tell: Callable[[str], str]) -> Iterator[None]:
    """Turn whatever a reader raises that is not of this package into an error of it.

    Parameters
    ----------
    tell
        Makes the text of the error from what was raised, in one line.

    Raises
    ------
    InputValueError
        The block raised an exception that is not of this package.
    """
    try:
        yield
    except RankByGeneError:
        raise
    # Parsers meet bytes that nobody foresaw, so that no list of their exceptions is complete.
    except Exception as error:
        msg = tell(f"{type(error).__name__}: {error}".splitlines()[0])
        raise InputValueError(msg) from error


@contextmanager
def reading(path: str | Path, kind: str) -> Iterator[None]:
    """Turn whatever a damaged or foreign file makes its reader raise into an error that names it.

    Parameters
    ----------
    path
        The file.
    kind
        What it should be, such as ``"h5ad"``.

    Raises
    ------
    InputValueError
        The block raised an exception that is not of this package.
    """
    hint = "it is damaged or of another kind. Get it again"
    with unreadable(lambda said: f"{path} cannot be read as {kind} ({said}); {hint}"):
        yield


def regular_file(path: str | Path) -> Path:
    """Give the path of a file, which is neither missing nor a folder, a pipe or a device.

    Raises
    ------
    InputValueError
        There is no such file.
    """
    path = Path(path)
    if not path.is_file():
        what = "it is not a regular file" if path.exists() else "there is no file of that name"
        msg = f"{path} cannot be read: {what}"
        raise InputValueError(msg)
    return path
