"""Encoders: architecture, weights, and checkpoints of other projects."""
