"""What a model was before a training, to go back to when that breaks off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rankbygene.base._trained import TrainedModel
from rankbygene.errors import TrainingError
from rankbygene.nn.encoders._weights import load_shared, shared_state

__all__ = ["good_state_kept"]

# What a model has beside its state, and makes anew when it is gone.
_MADE_AGAIN = ("module", "trainer", "_tiles", "_features", "_nearest")


@contextmanager
def good_state_kept(
    model: TrainedModel, finish: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Let a model come out of a training that breaks off with a state that can be used.

    A model that was trained before is again what it was. One that was not, or whose user interrupted
    the training, keeps the best epoch of this one, if the block has put it back (``is_trained_``),
    and is finished like any other; without one it is as untrained as before. What happened is noted
    in ``training_params`` and with the exception, which goes on its way.

    Parameters
    ----------
    model
        The model.
    finish
        What follows the training of the network.
    """
    before = _State(model)
    try:
        yield
    except BaseException as error:
        error.add_note(_settle(model, before, error, finish))
        raise
    try:
        finish()
    except BaseException as error:
        before.restore(model)
        error.add_note("what follows the training failed; the model is what it was before")
        raise


def _settle(model: Any, before: _State, error: BaseException, finish: Callable[[], None]) -> str:
    # Other errors may name files, which are nobody else's business.
    text = f": {error}" if isinstance(error, TrainingError) else ""
    what = f"training broke off ({type(error).__name__}{text})"
    interrupted = isinstance(error, KeyboardInterrupt)
    if before.is_trained and not (interrupted and model.is_trained_):
        before.restore(model)
        return _noted(model, f"{what}; the model is what it was before this training")
    if not model.is_trained_ or isinstance(error, SystemExit):
        before.restore(model)
        return "no epoch of this training can be used; the model is untrained, as before"
    try:
        finish()
    except BaseException as second:  # noqa: BLE001
        before.restore(model)
        return f"what follows the training failed too ({second}); the model is what it was before"
    return _noted(model, f"{what}; the best epoch until then is kept")


def _noted(model: Any, note: str) -> str:
    model.training_params = {**model.training_params, "broken_off": note}
    return note


class _State:
    """Weights and attributes of a model."""

    def __init__(self, model: Any) -> None:
        self.is_trained = bool(model.is_trained_)
        self._module = model.module
        self._weights = {
            name: tensor.detach().cpu().clone()
            for name, tensor in shared_state(model.module).items()
        }
        self._rest = {n: value for n, value in vars(model).items() if n not in _MADE_AGAIN}
        # The runner adds to this one in place.
        self._rest["history_"] = None if model.history_ is None else dict(model.history_)

    def restore(self, model: Any) -> None:
        """Make the model what it was."""
        load_shared(model.module, self._weights)
        model.module.eval()
        vars(model).update(self._rest)
