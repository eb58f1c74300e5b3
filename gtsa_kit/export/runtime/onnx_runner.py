"""Runner of ONNX files in ONNX Runtime."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.runtime.batch_parallel import BatchParallelRunner, Infer
from gtsa_kit.export.runtime.device import AnyDevice
from gtsa_kit.export.runtime.onnx_gpu_sessions import open_gpu_session
from gtsa_kit.export.runtime.onnx_sessions import open_session
from gtsa_kit.export.spec import INPUT
from gtsa_kit.hardware import compute_threads

if TYPE_CHECKING:
    from onnx import ModelProto


class OnnxRunner(BatchParallelRunner):
    """Runner of an ONNX file in ONNX Runtime."""

    chunk = 2

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        device: AnyDevice,
        providers: tuple[str, ...] = ("cpu",),
        engine_cache: Path | None = None,
    ) -> None:
        """Open a file with the first of several providers that runs here.

        Args:
            path: ONNX file.
            manifest: Its manifest, whose tensors the graph has (`check_names`).
            device: The GPU; the CPU provider ignores it.
            providers: Providers to try, see `providers.ProviderRequest.resolve`.
            engine_cache: See `providers.ProviderRequest`.

        Raises:
            ValueError: The file can't be opened, or no provider runs here.
        """
        self.manifest = manifest
        names = [spec.name for spec in self.manifest.outputs]
        gpu_session = open_gpu_session(path, self.manifest, providers, device, engine_cache)
        if gpu_session:
            self.manifest, self.provider = gpu_session.manifest, gpu_session.description
            self._set_inference(infer_with_session(gpu_session.session, names), None)
            return
        # ONNX Runtime's CPU provider has no bf16 operators.
        model = _emulated(path) if self.manifest.precision == "bf16" else str(path)
        fp8 = self.manifest.precision == "fp8"
        session = open_session(model, path, compute_threads(), fp8)
        divisible = not self.manifest.range_of("batch").fixed
        # Neither function refers to this object: a reference cycle would keep the sessions until a later collection.
        self._set_inference(
            infer_with_session(session, names),
            (lambda: infer_with_session(open_session(model, path, 1, fp8), names)) if divisible else None,
        )
        self.provider = f"ONNX Runtime, {session.get_providers()[0]}"


def check_names(path: Path, manifest: Manifest, model: "ModelProto") -> None:
    """Raise `ValueError` if the graph has lost an input or an output of its manifest."""
    existing = {value.name for value in (*model.graph.input, *model.graph.output)}
    names = [spec.name for spec in (*manifest.inputs, *manifest.outputs)]
    if lost := [name for name in names if name not in existing]:
        raise ValueError(f"{path} was changed by another tool: it has no {lost[0]!r} any more; export it again")


def infer_with_session(session: Any, names: list[str]) -> Infer:
    """Return a function that runs an ONNX Runtime session; any thread may call it."""
    return lambda images: session.run(names, {INPUT: images})


def _emulated(path: Path) -> bytes:
    """Return the graph of a bf16 file for a CPU."""
    from gtsa_kit.export.runtime.bf16_emulation import emulate_bfloat16

    return emulate_bfloat16(path)
