"""The count matrix of a table: read in blocks, and checked."""
