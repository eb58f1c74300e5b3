"""Pretraining: the loop, its schedules and checkpoints, and the run folder."""
