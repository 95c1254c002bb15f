"""Odd slides for tests: legal ones with the right result known, illegal ones with the error that is due.

They are drawn by strategies of hypothesis (``pip install 'rankbygene[test]'``), which shrinks what fails
to the plainest slide that still does.
"""

from __future__ import annotations

try:
    import hypothesis
except ImportError as error:
    msg = "rankbygene.testing needs hypothesis; install it with `pip install 'rankbygene[test]'`"
    raise ImportError(msg) from error

from rankbygene.testing._illegal import FAULTS, IllegalSlide, illegal_slides
from rankbygene.testing._legal import LegalSlide, legal_slides

__all__ = ["FAULTS", "IllegalSlide", "LegalSlide", "illegal_slides", "legal_slides"]
