"""Options with which a file is opened: by `load`, by the commands, and by the processes that they start."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal

from gtsa_kit.config import Positions

RUN_FACTS: Final = ("branch", "embedding")
"""Facts of `ImportOptions` that can be given for a run of gtsa-kit, too."""


@dataclass(frozen=True)
class ImportOptions:
    """Facts that the weights of another tool do not contain; None takes the value of a file beside them, or a default.

    They are for weights of other tools. Runs and exported files of gtsa-kit state these facts themselves, but for the
    branch and the embedding of a run.
    """

    branch: Literal["teacher", "student"] | None = None
    """Branch of a checkpoint or a run that holds both."""
    heads: int | None = None
    """Number of attention heads."""
    mean: tuple[float, float, float] | None = None
    """Mean of red, green and blue in training, 0 to 1."""
    std: tuple[float, float, float] | None = None
    """Standard deviation of red, green and blue in training, 0 to 1."""
    positions: Positions | None = None
    """Way to resample learned position embeddings; see `models.positions.POSITIONS`."""
    embedding: Literal["mean", "cls"] | None = None
    """Embedding: the mean of the patch tokens or the class token, both after the final norm. None is what the code of
    the weights' own family returns, for a run what it trained."""

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the facts that are given."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is not None)

    def only(self, *names: str) -> "ImportOptions":
        """Return the facts of these names alone."""
        return ImportOptions(**{name: getattr(self, name) for name in names})

    @property
    def stated_by_runs(self) -> "ImportOptions":
        """The facts that a run of gtsa-kit states itself."""
        return self.only(*(field.name for field in fields(self) if field.name not in RUN_FACTS))


@dataclass(frozen=True)
class LoadOptions:
    """Arguments of `load`, to keep and pass on together."""

    device: str = "auto"
    """auto, cpu or cuda."""
    provider: str = "auto"
    """Execution provider of ONNX Runtime."""
    engine_cache: Path | None = None
    """Folder in which the provider keeps the engines that it builds."""
    fallback: bool = False
    """Use the next provider if the requested one does not work."""
    layers: tuple[int, ...] = ()
    """Indices of blocks whose feature maps are outputs too."""
    import_options: ImportOptions = ImportOptions()
    class_token: bool = False
    """True adds the class token to the outputs."""

    @property
    def provider_options(self) -> tuple[str, ...]:
        """Command line names of the given options of ONNX Runtime."""
        values = {
            "--provider": self.provider != "auto",
            "--engine-cache": self.engine_cache,
            "--fallback": self.fallback,
        }
        return tuple(name for name, value in values.items() if value)

    def without_provider(self) -> "LoadOptions":
        """Return the options for a file that ONNX Runtime does not run."""
        return replace(self, provider="auto", engine_cache=None, fallback=False)

    def with_facts(self, *names: str) -> "LoadOptions":
        """Return the options for a file that states all facts of an import but these itself."""
        return replace(self, import_options=self.import_options.only(*names))

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `load`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
