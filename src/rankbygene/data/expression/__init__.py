"""Expression: genes read of a slide, normalised, smoothed over neighbours."""
