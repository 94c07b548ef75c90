"""Metrics: one file, one pure function each; the file name is the registry name (see `metrics.base`)."""
