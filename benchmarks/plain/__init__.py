"""Straightforward implementations of views, losses and training step, which the benchmarks compare with gtsa-kit."""
