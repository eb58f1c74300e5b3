"""Model card of an artifact, in the format of the Hugging Face Hub: metadata in YAML, then text."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from huggingface_hub.repocard_data import EvalResult, ModelCardData

from gtsa_kit.config.layers import flatten
from gtsa_kit.export.cards.facts import RunFacts
from gtsa_kit.export.cards.runtimes import MinimumVersions
from gtsa_kit.export.cards.shipped import Shipped
from gtsa_kit.export.formats.framework_files import channels_note, embedding_call
from gtsa_kit.export.parity_report import Difference
from gtsa_kit.export.spec import FRAMEWORKS
from gtsa_kit.files import shell_word
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.version import __version__

TASK_TAGS: Final = {
    None: "image-feature-extraction",
    "classify": "image-classification",
    "segment": "image-segmentation",
    "detect": "object-detection",
}
"""Tasks of the Hub."""
METRICS: Final = {"mIoU": "mean_iou", "top-1": "accuracy", "AP": "mean_average_precision", "mask AP": "mask_map"}
"""Names of metrics on the Hub."""
UNKNOWN_RUN: Final = (
    "Not known: the weights are not those of a run of gtsa-kit whose folder was there at the export. Fill in."
)


def model_card(shipped: Shipped, facts: RunFacts | None, minimum: MinimumVersions | None) -> str:
    """Return the model card of an artifact as Markdown with a YAML header.

    Args:
        shipped: The artifact.
        facts: Facts about the training of its weights; None if they are not known.
        minimum: Oldest runtimes that open it, for ONNX files.
    """
    name = facts.name if facts else shipped.path.resolve().stem
    sections = {
        "How to use it": _use(shipped, minimum),
        "Training data": _data(facts),
        "Training": _training(facts),
        "Parity": _parity(shipped),
        "Scores": _scores(shipped, facts),
        "Sensitivity": _sensitivity(facts, shipped),
        "Limits": _limits(shipped),
        "Licenses": _licenses(facts),
        "Files": _table(("file", "SHA-256"), [(f"`{name}`", f"`{digest}`") for name, digest in shipped.files.items()]),
    }
    model = f"a fine-tuned model ({shipped.task})" if shipped.task else "a vision transformer for dense features"
    intro = f"`{shipped.path.resolve().name}` is {model}, exported by gtsa-kit {__version__}. Its bill of materials is "
    intro += f"`{shipped.bill_path.name}` (CycloneDX)."
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"---\n{_metadata(shipped, name).to_yaml()}\n---\n\n# {name}\n\n{intro}\n\n{body}\n"


def _metadata(shipped: Shipped, name: str) -> ModelCardData:
    """Return the YAML header; it states no license, which is for the publisher to choose."""
    score, results = shipped.task_score, None
    if score:
        results = [
            EvalResult(
                task_type=TASK_TAGS[shipped.task],
                dataset_type="private",
                dataset_name=score.data,
                metric_type=METRICS[score.metric],
                metric_name=score.metric,
                metric_value=round(score.artifact, 4),
            )
        ]
    return ModelCardData(
        library_name={"hf": "transformers", "timm": "timm"}.get(shipped.format, "gtsa-kit"),
        pipeline_tag=TASK_TAGS[shipped.task],
        tags=["gtsa", "vision-transformer", "dense-features", shipped.format],
        model_name=name if results else None,
        eval_results=results,
    )


def _use(shipped: Shipped, minimum: MinimumVersions | None) -> str:
    lines = []
    if shipped.format in FRAMEWORKS:
        lines.append(embedding_call(shipped.format, str(shipped.architecture.get("embedding", "mean"))) + ".")
        note = channels_note(shipped.format, Preprocessing.from_dict(shipped.preprocessing))
        lines += [f"{note[0].upper()}{note[1:]}."] if note else []
    elif shipped.path.is_file():
        lines.append(f'    gtsa_kit.load("{shipped.path.name}")(images)')
    if minimum:
        lines.append(f"Runs with {minimum.sentence()}. The versions follow from the file; they were not run.")
    if shipped.target:
        lines.append(f"Made with: {', '.join(f'{name} {value}' for name, value in shipped.target.items())}.")
    rows = [
        (kind, f"`{spec.name}`", spec.dtype, " x ".join(map(str, spec.shape)))
        for kind, specs in (("input", shipped.inputs), ("output", shipped.outputs))
        for spec in specs
    ]
    lines += [_table(("", "tensor", "type", "shape"), rows)] if rows else []
    lines += [f"Preprocessing: {_listed(shipped.preprocessing)}.", f"Architecture: {_listed(shipped.architecture)}."]
    lines += [f"Classes: {', '.join(shipped.labels)}."] if shipped.labels else []
    return "\n\n".join(lines)


def _data(facts: RunFacts | None) -> str:
    if facts is None:
        return UNKNOWN_RUN
    training, settings, scores = facts.training, facts.settings, facts.scores
    source = settings.get("data") or settings.get("data.source") or "unknown"
    rows = [("source", f"`{source}`"), ("training images", training.get("images"))]
    if "unreadable" in training:
        rows.append(("unreadable images, skipped", training["unreadable"]))
    if scores:
        rows += [("validation images", scores.get("val_images")), ("split", scores.get("split"))]
    return _table(("", ""), [(name, "unknown" if value is None else value) for name, value in rows])


def _training(facts: RunFacts | None) -> str:
    if facts is None:
        return UNKNOWN_RUN
    training, settings, start = facts.training, facts.settings, facts.start
    rows = [
        ("method", training.get("method") or f"fine-tuning, preset {settings.get('preset', 'unknown')}"),
        ("weights to start from", f"`{start.name}`" + (f", SHA-256 `{start.sha256}`" if start.sha256 else "")),
        ("finished steps", training.get("steps")),
        ("images per step", training.get("batch")),
        ("seed", settings.get("train.seed")),
    ]
    if "frozen" in training:
        rows += [("encoder", "frozen" if training["frozen"] else "trained"), ("best step", training.get("step"))]
    if (learning := training.get("learning")) is not None:
        loss = f"{learning['loss']:.4g}, constant baseline {learning['baseline']:.4g}"
        rows.append(("loss of the last rows", f"{loss}: {'learned' if learning['learned'] else 'not shown to learn'}"))
    table = _table(("", ""), [(name, "unknown" if value is None else value) for name, value in rows])
    listed = "\n".join(f"{key}: {value}" for key, value in settings.items())
    return f"{table}\n\n<details><summary>All settings</summary>\n\n```text\n{listed}\n```\n\n</details>"


def _parity(shipped: Shipped) -> str:
    report = shipped.parity
    if report is None:
        return "Not measured: the artifact has no reference, or can't run on the machine that exported it."
    verdict = f"**{'passed' if report.passed else 'failed'}** against {report.reference}, on {report.images}"
    intro = f"{verdict}, run by {report.runtime}. Tolerance: {_listed(report.tolerance)}."
    rows = [_difference(one) for one in report.differences]
    header = ("output", "shape", "max abs", "min cosine", "neighbors", "agreement", "")
    return f"{intro}\n\n{_table(header, rows)}"


def _difference(one: Difference) -> Sequence[str]:
    shape = f"{one.batch} x {one.height} x {one.width}"
    numbers = ["" if value is None else f"{value:.7g}" for value in (one.min_cosine, one.neighbors, one.agreement)]
    max_abs = "" if one.max_abs is None else f"{one.max_abs:.2e}"
    return one.output, shape, max_abs, *numbers, one.problem or ("passed" if one.passed else "failed")


def _scores(shipped: Shipped, facts: RunFacts | None) -> str:
    parts = []
    if score := shipped.task_score:
        row = (score.data, score.images, score.metric, f"{score.artifact:.2f}", f"{score.source:.2f}")
        parts.append(_table(("data", "images", "metric, %", "this artifact", "float32 model"), [row]))
    if facts and facts.scores:
        numbers = {name: value for name, value in facts.scores.items() if isinstance(value, float)}
        rows = [(name, f"{value:.2f}") for name, value in numbers.items()]
        parts.append("Of the float32 model on the validation images of its run:\n\n" + _table(("score, %", ""), rows))
    for name, report in (facts.evaluations if facts else {}).items():
        if name != "sensitivity":
            parts.append(f"`gtsa eval {name}`:\n\n{_summary(report)}")
    return "\n\n".join(parts) or "Not measured: `gtsa export --score`, `gtsa eval`."


def _sensitivity(facts: RunFacts | None, shipped: Shipped) -> str:
    report = facts.evaluations.get("sensitivity") if facts else None
    if report is None:
        run = facts.name if facts else "RUN"
        command = f"gtsa eval sensitivity {shell_word(run)} --images IMAGES --out {shell_word(run + '/eval')}"
        return f"Not measured: `{command}`, then export again."
    intro = "Variance of the embedding over views, in percent of its variance over images (`gtsa eval sensitivity`)."
    return f"{intro}\n\n{_summary(report)}"


def _summary(report: Mapping[str, Any]) -> str:
    """Return the summary of an evaluation as a table, without columns that are empty."""
    lines = report.get("summary") or []
    keys = [key for key in (lines[0] if lines else {}) if any(line.get(key) is not None for line in lines)]
    rows = [[f"{v:.2f}" if isinstance(v := line.get(key), float) else v for key in keys] for line in lines]
    return _table(keys, rows)


def _limits(shipped: Shipped) -> str:
    patch = shipped.architecture.get("patch")
    lines = [
        f"Inputs have sides that are multiples of the patch, {patch} pixels; other sizes are resized or refused.",
        "Features of images unlike the training images have not been measured beyond the scores above.",
        "The comparison with the float32 model ran on few images and on one machine; "
        "`gtsa verify` repeats it on other images and hardware.",
    ]
    if shipped.precision != "fp32":
        lines.append(f"It computes in {shipped.precision}: small differences from the float32 model are expected.")
    if shipped.task:
        lines.append("It knows the classes above alone, and gives one of them to whatever it sees.")
    return "\n".join(f"- {line}" for line in lines)


def _licenses(facts: RunFacts | None) -> str:
    start = facts.start if facts else None
    lines = ["The license of these weights is not stated: add `license:` to the header of this card."]
    if start and start.sha256:
        license_name = start.license or "not known; look it up before you publish"
        lines.append(f"The weights that training started from, `{start.name}`, have the license: {license_name}.")
    elif start:
        lines.append("Training started from random weights.")
    lines.append("Licenses of the packages that made the artifact are in the bill of materials.")
    return "\n".join(f"- {line}" for line in lines)


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")


def _listed(values: Mapping[str, Any]) -> str:
    """Return settings as one line, without those that are not set."""
    flat = {key: value for key, value in flatten(values).items() if value not in (None, "", [], ())}
    return ", ".join(f"{key} {Path(value).name if key == 'path' else value}" for key, value in flat.items())
