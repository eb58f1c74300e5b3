"""Everything that determines an encoder but its weights: the architecture and the preprocessing of its input."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from gtsa_kit.config import Arch
from gtsa_kit.models.architecture import ARCHITECTURES, Architecture
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.preprocessing import Preprocessing


@dataclass(frozen=True)
class EncoderSpec:
    """Architecture and preprocessing of an encoder."""

    architecture: Architecture
    preprocessing: Preprocessing

    @classmethod
    def named(cls, arch: str) -> "EncoderSpec":
        """Return the specification of random weights, by a key of `ARCHITECTURES`."""
        return cls(ARCHITECTURES[cast(Arch, arch)], Preprocessing())

    @classmethod
    def of(cls, encoder: Encoder) -> "EncoderSpec":
        """Return the specification of an encoder."""
        return cls(encoder.architecture, encoder.preprocessing)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "EncoderSpec":
        """Build from a dictionary with what `to_dict` returns; other keys are ignored."""
        return cls(Architecture.from_dict(content["architecture"]), Preprocessing.from_dict(content["preprocessing"]))

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for checkpoints: numbers, texts, and mappings and sequences of them."""
        return {"architecture": self.architecture.to_dict(), "preprocessing": self.preprocessing.to_dict()}

    def build(self, drop_path: float = 0.0) -> Encoder:
        """Build an encoder with random weights from torch's global generator."""
        return Encoder(self.architecture, drop_path=drop_path, preprocessing=self.preprocessing)
