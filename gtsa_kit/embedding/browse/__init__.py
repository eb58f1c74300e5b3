"""Tools to browse a dataset folder: search, near-duplicates, two-dimensional projections, contact sheets."""
