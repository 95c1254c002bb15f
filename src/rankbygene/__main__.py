"""The command line as ``python -m rankbygene``, for launchers such as ``torchrun -m``."""

from __future__ import annotations

from rankbygene.cli import main

if __name__ == "__main__":
    main()
