"""Runner of the PyTorch model of weights that were not exported."""

import torch

from gtsa_kit.export.build_manifest import build_manifest
from gtsa_kit.export.runtime.torch_runner import TorchRunner
from gtsa_kit.export.source import Source
from gtsa_kit.export.spec import ExportOptions
from gtsa_kit.export.task_graph import build_graph, options_for
from gtsa_kit.models.weights import weights_digest


def open_model(source: Source, target: torch.device, options: ExportOptions | None = None) -> TorchRunner:
    """Return a runner of the float32 PyTorch model of a source."""
    options = options_for(source.model, options or ExportOptions())
    graph = build_graph(source.model, options)
    manifest = build_manifest(source.model, "pytorch", options, {"torch": str(torch.__version__)}, source.sha256)
    digest = weights_digest(dict(source.encoder.vit.state_dict()))
    runner = TorchRunner(graph, manifest.model_copy(update={"weights_sha256": digest}), target)
    runner.note = source.note
    return runner
