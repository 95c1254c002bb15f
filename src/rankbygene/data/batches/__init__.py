"""Batches of tiles and expression, in an order that a seed repeats."""
