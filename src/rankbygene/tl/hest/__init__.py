"""HEST-Bench."""
