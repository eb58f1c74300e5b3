"""Images of any number of channels at their full depth: readers, limits, statistics, areas without data."""
