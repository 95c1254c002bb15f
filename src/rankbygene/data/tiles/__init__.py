"""Pixels: tiles of spots, read, kept and shown."""
