"""Embedding of JPEG files with all cores."""

from gpu.part import Context

NEEDS = ("timm", "pydantic", "pyarrow", "zarr", "fsspec", "PIL", "rich", "safetensors")
AIM = "90 %"
"""Share of the model's own rate to reach."""


def run(context: Context) -> None:
    """Measure embedding beside decoding and the model alone (benchmarks/embedding.py)."""
    options: list[object] = ["--images", context.images, "--format", "torchscript"]
    options += ["--precision", "fp32" if context.device == "cpu" else "fp16"]
    if context.tiny:
        from gpu.parts.inference import make_run

        options += ["--count", 8, "--rounds", 1, "--source", make_run(context.work / "run", "vit_test")]
    else:
        options += ["--count", 4096, "--rounds", 3]
    content = context.run("embedding.py", options)
    rates = content["rates"]
    context.add("decoding and resizing, all cores", rates["decode"], "images/s")
    context.add(f"model, {content['provider']}", rates["model"], "images/s")
    context.add("gtsa embed", rates["embed"], "images/s")
    slower = rates["embed"] / min(rates["model"], rates["decode"])
    note = f"{100 * slower:.0f} % of the slower of decoding and model"
    context.add("gtsa embed, share of the model alone", 100 * rates["embed"] / rates["model"], "%", aim=AIM, note=note)
    cosine = content["min_cosine"]
    context.add("smallest cosine to a simple loop in float32", cosine, ok=cosine > 0.99)
