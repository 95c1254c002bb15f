"""Cross-validation of methods on equal terms."""
