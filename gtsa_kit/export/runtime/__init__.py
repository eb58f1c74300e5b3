"""Runners of artifacts, one class for each file format, and `load`, which opens any of them."""
