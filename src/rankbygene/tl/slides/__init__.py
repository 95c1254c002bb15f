"""Cross-validation of slide-level outcomes."""
