"""Checks and measurements of everything that needs a GPU (run.py)."""
