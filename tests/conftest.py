from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real tissue; tests that need it are skipped, with the reason, without it."""
    value = os.environ.get("RANKBYGENE_DATA")
    if not value:
        pytest.skip("RANKBYGENE_DATA is not set: tests on real tissue are skipped")
    path = Path(value).resolve()
    if not path.is_dir():
        pytest.fail(f"RANKBYGENE_DATA={value} is not a folder")
    return path
