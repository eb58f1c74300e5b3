"""Import of the OpenVINO library, and the number types that it computes in on this processor."""

from typing import Any


def import_openvino() -> Any:
    """Import the `openvino` module.

    Raises:
        ValueError: OpenVINO is not installed; the message says how to install it.
    """
    try:
        import openvino
    except ImportError as error:
        raise ValueError("OpenVINO is not installed; pip install 'gtsa-kit[openvino]'") from error
    return openvino


def cpu_capabilities(openvino: Any) -> list[str]:
    """Return the number types that OpenVINO computes in on this processor, such as "FP16" and "BF16"."""
    return list(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
