"""The benchmark: cases, runs, scores, reports."""
