"""GPUs that TensorRT-RTX does not build for, and the way to get an engine for each.

The facts are those of NVIDIA's support matrix of TensorRT-RTX 1.5 and its page on TensorRT 11.4.1 for JetPack.
"""

from collections.abc import Mapping
from typing import Final

ON_SUCH_A_MACHINE: Final = "use --runtime tensorrt on a machine with such a GPU"
JETSON: Final = (
    "build it on the Jetson itself, since engines are not portable between platforms: with JetPack 7.2.2 or later run "
    "the same command there with --runtime tensorrt (TensorRT 11.4.1 or later, its SBSA package)"
)
JETPACK_6: Final = (
    ", with JetPack 6 (TensorRT 10) copy the file of gtsa export SOURCE --format onnx --precision fp16 there and run "
    "trtexec --stronglyTyped; docs/tensorrt.md has both"
)
OTHER_GPUS: Final[Mapping[str, tuple[str, str]]] = {
    "8.7": ("Jetson Orin", JETSON + JETPACK_6),
    "9.0": ("Hopper", ON_SUCH_A_MACHINE),
    "10.0": ("data-center Blackwell", ON_SUCH_A_MACHINE),
    "10.3": ("data-center Blackwell", ON_SUCH_A_MACHINE),
    "10.1": ("Thor, 11.0 since CUDA 13", JETSON),
    "11.0": ("Jetson Thor", JETSON),
}
"""Name of the GPU and what to do, by compute capability."""


def describe_capability(capability: str) -> str:
    """Return a compute capability with the name of its GPUs, if it is one of `OTHER_GPUS`."""
    name, _ = OTHER_GPUS.get(capability, ("", ""))
    return f"{capability} ({name})" if name else capability


def way_to_engine(capability: str) -> str:
    """Return what to do for an engine that TensorRT-RTX can't build."""
    default = "for other GPUs (9.0 is Hopper, 10.0 data-center Blackwell) " + ON_SUCH_A_MACHINE
    return OTHER_GPUS[capability][1] if capability in OTHER_GPUS else default


def check_elsewhere(requested: tuple[str, ...], own: str | None) -> None:
    """Raise `ValueError` for a Jetson that is not this machine: no variant builds its engines anywhere else.

    Args:
        requested: Compute capabilities of the engine.
        own: Compute capability of this machine's GPU; None where there is no GPU.
    """
    for capability in requested:
        if capability != own and OTHER_GPUS.get(capability, ("", ""))[1].startswith(JETSON):
            raise ValueError(
                f"an engine for compute capability {describe_capability(capability)} can't be built on this machine; "
                f"{way_to_engine(capability)}"
            )
