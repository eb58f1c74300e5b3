"""Runners: one class for each kind of artifact, and the function that opens any of them."""
