"""Pretraining: loop, optimizer, checkpoints, logs and run folder."""
