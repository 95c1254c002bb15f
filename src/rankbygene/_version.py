"""Which version this is, for whatever lies below the package's face."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

__all__ = ["SOURCE", "__version__"]

__version__ = version("rankbygene")
# The folder of the modules.
SOURCE = Path(__file__).parent
