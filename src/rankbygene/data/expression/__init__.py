"""Counts: matrices, panels, normalisation, neighbours."""
