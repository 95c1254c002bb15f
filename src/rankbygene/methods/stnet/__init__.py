"""ST-Net: expression from a tile by regression."""

from __future__ import annotations

from rankbygene.methods.stnet._plan import STNET_RELEASED

__all__ = ["STNET_RELEASED"]
