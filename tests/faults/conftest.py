"""The campaign of faults in a small form; ``python benchmarks/faults.py`` runs it in full."""

from __future__ import annotations

import sys
from pathlib import Path

# The campaign is no part of the package.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
