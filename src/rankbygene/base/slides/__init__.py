"""Models of slides as bags of features."""
