"""Models of spots: options, training, results, files."""
