"""Inversions: one file, one public class each; the file name is the registry name."""
