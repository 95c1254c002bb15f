"""BLEEP: expression by retrieval in a space that images and profiles share."""
