"""The exceptions of the package: one family, each also the builtin that fits it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "BackboneError",
    "InputKeyError",
    "InputTypeError",
    "InputValueError",
    "NotTrainedError",
    "OutputExistsError",
    "OutputFailedError",
    "RankByGeneError",
    "TrainingError",
]


class RankByGeneError(Exception):
    """Base of every exception that the package raises on purpose."""


class InputValueError(RankByGeneError, ValueError):
    """Something in the input has a value that cannot be used."""


class InputKeyError(RankByGeneError, KeyError):
    """A name was given that the input does not hold."""

    # KeyError shows the repr of its argument, which would escape the newlines of a longer report.
    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class InputTypeError(RankByGeneError, TypeError):
    """An object of the wrong type, or data of the wrong dtype, was given."""


class BackboneError(RankByGeneError, RuntimeError):
    """An image encoder or its weights could not be obtained."""


class TrainingError(RankByGeneError, RuntimeError):
    """Training could not go on."""


class NotTrainedError(RankByGeneError, RuntimeError):
    """A result was asked of a model that has not been trained."""


class OutputExistsError(RankByGeneError, FileExistsError):
    """A file or folder is in the way and overwriting was not asked for."""


class OutputFailedError(RankByGeneError, OSError):
    """A file or folder could not be written; what was there before is untouched."""


class Problems:
    """Collects input errors, so that a user sees all of them at once.

    Examples
    --------
    >>> problems = Problems("slide 'A'")
    >>> with problems.collect():
    ...     check_something()
    >>> problems.raise_if_any()
    """

    def __init__(self, place: str = "") -> None:
        self.place = place
        self.found: list[RankByGeneError] = []

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Keep an input error raised in the block instead of letting it pass."""
        try:
            yield
        except (InputValueError, InputKeyError, InputTypeError) as error:
            self.found.append(error)

    def raise_if_any(self) -> None:
        """Raise what was collected: one error as it is, several as one of the first one's type."""
        if not self.found:
            return
        prefix = f"{self.place}: " if self.place else ""
        if len(self.found) == 1:
            text = f"{prefix}{self.found[0]}"
        else:
            texts = [str(error).replace("\n", "\n     ") for error in self.found]
            lines = "\n".join(f"  {i}. {text}" for i, text in enumerate(texts, 1))
            text = f"{prefix}{len(self.found)} problems\n{lines}"
        raise type(self.found[0])(text) from self.found[0]
