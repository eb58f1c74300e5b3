"""Fixtures by name; tests import classes from `running`, since every folder has a `conftest`."""

from helpers.running_service import artifact, runner, served, serving

__all__ = ["artifact", "runner", "served", "serving"]
