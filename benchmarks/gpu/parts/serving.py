"""Service at saturation and at half of that load."""

import statistics

from gpu.part import Context

NEEDS = (
    *("timm", "pydantic", "fastapi", "uvicorn", "httpx", "python_multipart", "prometheus_client"),
    *("PIL", "rich", "safetensors", "typer"),
)


def run(context: Context) -> None:
    """Measure the service beside the offline path (benchmarks/serving.py)."""
    from gpu.parts.inference import export, open_weights

    precision = "fp32" if context.device == "cpu" else "fp16"
    artifact = export(context, open_weights(context), "torchscript", precision)
    rounds, count, seconds = (1, 64, 1) if context.tiny else (2, 1024, 5)
    load: list[object] = ["--rounds", rounds, "--count", count, "--seconds", seconds]
    content = context.run("serving.py", [artifact, "--images", context.images, *load])
    context.add("artifact of the service", content["artifact"], note=content["provider"])
    for name, rates in content["rates"].items():
        context.add(f"{name}, saturated", statistics.median(rates), "images/s")
    context.add("gtsa serve, share of the offline path", 100 * content["serve_over_offline"], "%")
    context.add("one request, idle", content["single_ms"], "ms")
    context.add("added to decoding and the model, idle", content["idle_adds_ms"], "ms")
    load_text = f"at half of the load, {content['half_load_rate']:.0f} requests/s"
    context.add(f"median {load_text}", content["p50_regular_ms"], "ms")
    context.add(f"99th percentile {load_text}", content["p99_regular_ms"], "ms")
    context.add(f"99th percentile {load_text}, Poisson arrivals", content["p99_poisson_ms"], "ms")
