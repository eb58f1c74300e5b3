"""Results of `gtsa bench`: the table of speeds at one shape, and the data of `--json`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from gtsa_kit.export.benchmark.compare import BatchShape, Speed
    from gtsa_kit.export.manifest import Manifest

    Skipped = tuple[str, BatchShape, str]
    """Name of a file, shape that it does not accept, and the reason."""


def gate(manifest: "Manifest | None") -> str:
    """Return the result of the parity gate at the time of the export: "passed", "FAILED" or "none"."""
    if manifest is None or manifest.parity is None:
        return "none"
    return "passed" if manifest.parity.passed else "FAILED"


def speed_table(speeds: "list[Speed]", gates: dict[str, str], first: str) -> "Table":
    """Build the table of speeds at one shape."""
    from rich.table import Table

    title = f"{speeds[0].shape}, latencies in ms"
    comparison = "cosine" if all(speed.agreement is None for speed in speeds) else "same class"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold")
    for column in ("images/s", "ratio", "p50", "p95", "p99", "load s", "MB", comparison):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("gate", no_wrap=True)
    for speed in speeds:
        table.add_row(
            speed.name,
            f"{speed.images_per_second:.1f}",
            _or_blank(ratio(speed, speeds, first), ".2f"),
            *(f"{latency:.1f}" for latency in (speed.p50, speed.p95, speed.p99)),
            f"{speed.load_seconds:.2f}",
            _or_blank(speed.memory_mb, ".0f"),
            speed.problem or _or_blank(speed.min_cosine, ".6f") or _or_blank(speed.agreement, ".4%"),
            gates[speed.name],
        )
    return table


def ratio(speed: "Speed", speeds: "list[Speed]", first: str) -> float | None:
    """Return images per second relative to the first file at the same shape; None if that file has no such row."""
    base = next((one for one in speeds if (one.name, one.shape) == (first, speed.shape)), None)
    return speed.images_per_second / base.images_per_second if base else None


def as_data(
    speeds: "list[Speed]",
    gates: dict[str, str],
    skipped: "list[Skipped]",
    reference: str,
    origin: str,
) -> dict[str, Any]:
    """Return the measurements as JSON data."""
    first = next(iter(gates))
    return {
        "images": origin,
        "reference": reference,
        "speeds": [
            asdict(speed) | {"ratio": ratio(speed, speeds, first), "gate": gates[speed.name]} for speed in speeds
        ],
        "skipped": [{"name": name, "shape": asdict(shape), "reason": reason} for name, shape, reason in skipped],
    }


def _or_blank(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)
