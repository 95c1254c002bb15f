"""Slides as bags of features, and their patients."""
