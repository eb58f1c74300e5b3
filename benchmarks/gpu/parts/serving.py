"""Service at saturation and at half of that load."""

from gpu.part import Context

NEEDS = ("timm", "pydantic", "fastapi", "uvicorn", "httpx", "PIL", "rich")


def run(context: Context) -> None:
    """Measure the service beside the offline path (benchmarks/serving.py)."""
    from gpu.parts.inference import export, open_weights

    precision = "fp32" if context.device == "cpu" else "fp16"
    artifact = export(context, open_weights(context), "torchscript", precision)
    rounds, count, seconds = (1, 64, 1) if context.tiny else (2, 2048, 10)
    load: list[object] = ["--rounds", rounds, "--count", count, "--seconds", seconds]
    options = [artifact, "--images", context.images, *load]
    for name, value in flatten(context.run("serving.py", options)):
        context.add(name, value)


def flatten(content: object, prefix: str = "") -> list[tuple[str, object]]:
    """Return the numbers and texts of nested results by their dotted names; of lists of numbers the length."""
    if isinstance(content, dict):
        return [row for key, value in content.items() for row in flatten(value, f"{prefix}{key}.")]
    if isinstance(content, list):
        return []
    return [(prefix.rstrip("."), content)]
