"""Runs: what there is to do, doing it, and several workers at it. Knows nothing of scores and reports."""
