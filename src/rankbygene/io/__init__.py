"""Readers and safe writers of SpatialData."""

from __future__ import annotations

from rankbygene.io._atomic import atomic_directory, write_sdata

__all__ = ["atomic_directory", "write_sdata"]
