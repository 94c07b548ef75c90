"""Scores: the figures of each picture of a run, and whether its edit is right. Knows a run by its records alone."""
