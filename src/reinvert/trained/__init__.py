"""Trained editors (networks that learned to edit): one file, one public class each; file name = registry name."""
