"""Service at saturation and at half of that load."""

from gpu.part import Context

NEEDS = ("timm", "pydantic", "fastapi", "uvicorn", "httpx", "PIL", "rich")


def run(context: Context) -> None:
    """Measure the service beside the offline path (benchmarks/serving.py)."""
    from gpu.parts.inference import export, make_run, open_weights
    from gtsa_kit.export.source import open_source

    tiny = context.tiny
    source = open_source(make_run(context.work / "run", "vit_test")) if tiny else open_weights(context)
    artifact = export(context, source, "torchscript", "fp32" if context.device == "cpu" else "fp16")
    options: list[object] = [artifact, "--images", context.images]
    options += ["--rounds", 1, "--count", 64, "--seconds", 1] if tiny else ["--rounds", 2, "--count", 2048]
    options += [] if tiny else ["--seconds", 10]
    for name, value in flatten(context.run("serving.py", options)):
        context.add(name, value)


def flatten(content: object, prefix: str = "") -> list[tuple[str, object]]:
    """Return the numbers and texts of nested results by their dotted names; of lists of numbers the length."""
    if isinstance(content, dict):
        return [row for key, value in content.items() for row in flatten(value, f"{prefix}{key}.")]
    if isinstance(content, list):
        return []
    return [(prefix.rstrip("."), content)]
