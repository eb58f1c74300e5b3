"""Fixtures of the service tests. Classes are imported from `helpers.running_service`."""

from helpers.running_service import artifact, runner, service, start_service

__all__ = ["artifact", "runner", "service", "start_service"]
