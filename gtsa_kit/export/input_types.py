"""Types of the images that a graph takes, and which of them a model and a runtime have."""

from gtsa_kit.export.spec import InputType
from gtsa_kit.models.preprocessing import Preprocessing


def check_input(input_type: InputType, preprocessing: Preprocessing) -> None:
    """Raise `ValueError` for an input of whole numbers of another type than the model's samples."""
    dtype, count = preprocessing.samples.dtype, len(preprocessing.mean)
    if input_type not in ("float32", "float32-samples", dtype):
        own = "" if dtype == "float32" else f"--input {dtype}, "
        raise ValueError(
            f"the model takes {count} channel{'s' * (count != 1)} of {dtype}, not of {input_type}; use {own}--input "
            "float32-samples, or float32 for normalized images"
        )


def check_tensorrt_input(dtype: str, name: object) -> None:
    """Raise `ValueError` for a type of images that TensorRT has not."""
    if dtype == "uint16":
        raise ValueError(
            f"TensorRT has no uint16, and {name} takes images of it; use --input float32-samples, which takes the same "
            "numbers as float32"
        )


def samples_input(preprocessing: Preprocessing) -> InputType:
    """Return the input of a graph that takes the samples of a model in their own type."""
    dtype = preprocessing.samples.dtype
    return "float32-samples" if dtype == "float32" else dtype  # type: ignore[return-value]
