"""Every name that the package writes into a table, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Keys:
    """The names under which one model's results are stored.

    Parameters
    ----------
    prefix
        ``key_added`` of the user; by default the method's name in lower case.
    """

    prefix: str

    @property
    def latent(self) -> str:
        """Key in ``.obsm``: image representation, float32 ``[n_obs, n_latent]``."""
        return f"X_{self.prefix}"

    @property
    def expression(self) -> str:
        """Key in ``.layers``: predicted expression, float32 ``[n_obs, n_vars]``."""
        return self.prefix

    @property
    def split(self) -> str:
        """Column of ``.obs``: categorical train / validation / test."""
        return f"{self.prefix}_split"

    @property
    def panel(self) -> str:
        """Column of ``.var``: whether the model predicts the gene."""
        return f"{self.prefix}_panel"

    @property
    def pearson(self) -> str:
        """Column of ``.var``: Pearson correlation on the validation spots."""
        return f"{self.prefix}_pearson"

    @property
    def params(self) -> str:
        """Key in ``.uns``: provenance."""
        return f"{self.prefix}_params"

    @property
    def attention(self) -> str:
        """Column of ``.obs``: weight of each tile in its slide, float32, sums to 1 over a slide."""
        return f"{self.prefix}_attention"
