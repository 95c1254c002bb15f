"""One method, one folder."""
