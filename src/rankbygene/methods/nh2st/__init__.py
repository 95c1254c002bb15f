"""NH2ST."""
