"""What the models of all methods share."""
