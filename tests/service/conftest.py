"""Fixtures of the service tests. Classes are imported from `helpers.running_service`."""

from helpers.running_service import artifact, runner, service, start_service
from helpers.served_heads import digest, head_runs, heads_service

__all__ = ["artifact", "digest", "head_runs", "heads_service", "runner", "service", "start_service"]
