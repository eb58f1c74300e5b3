"""Tools to browse a dataset folder: search, near-duplicates, projections to a plane, contact sheets."""
