"""Installed packages that made an artifact, with their versions, licenses and dependencies."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MODEL: Final = (("torch",), ("timm",), ("numpy",), ("safetensors",), ("pillow",))
"""Packages behind every artifact; each is a list of names of which one is installed."""
ONNX: Final = (("onnx",), ("onnxscript",), ("onnxruntime-gpu", "onnxruntime"))
BY_FORMAT: Final = {
    "onnx": ONNX,
    "openvino": (("openvino",),),
    "trt": (*ONNX, ("tensorrt-rtx", "tensorrt-cu13", "tensorrt-cu12", "tensorrt")),
    "triton": ONNX,
    "hf": (("transformers",),),
}
"""Further packages by format."""
MAX_LICENSE: Final = 80
"""Length of a license's name; longer fields hold its text."""


@dataclass(frozen=True)
class Package:
    """Installed package."""

    name: str
    version: str
    license: str
    """Name or SPDX expression, as the package states it; "" if it does not."""
    record_sha256: str
    """SHA-256 of its RECORD, which lists the hashes of its files; "" without one."""
    requires: tuple[str, ...]
    """Names of the installed packages that it needs."""


def packages_behind(file_format: str) -> list[Package]:
    """Return the packages that made an artifact of a format, and all that these need, in the order of their names."""
    packages: dict[str, Package] = {}
    waiting: list[tuple[str, frozenset[str]]] = []
    for names in (*MODEL, *BY_FORMAT.get(file_format, ())):
        installed = [name for name in names if _find(name)]
        waiting += [(name, frozenset()) for name in installed[:1]]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = item = waiting.pop()
        if item in seen or (installed_one := _find(name)) is None:
            continue
        seen.add(item)
        needed = [need for need in _requirements(installed_one, extras) if _find(need[0])]
        waiting += needed
        before = packages[name].requires if name in packages else ()
        requires = tuple(sorted({*before, *(need for need, _ in needed)}))
        packages[name] = _describe(name, installed_one, requires)
    return [packages[name] for name in sorted(packages)]


def _find(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _requirements(package: Distribution, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield names and extras of the requirements of a package that hold on this machine."""
    for text in package.requires or []:
        requirement = Requirement(text)
        environments: Sequence[dict[str, str]] = [{"extra": extra} for extra in ("", *sorted(extras))]
        if requirement.marker is None or any(requirement.marker.evaluate(one) for one in environments):
            yield canonicalize_name(requirement.name), frozenset(requirement.extras)


def _describe(name: str, package: Distribution, requires: tuple[str, ...]) -> Package:
    record = package.read_text("RECORD")
    digest = hashlib.sha256(record.encode()).hexdigest() if record else ""
    return Package(name, package.version, _license(package), digest, requires)


def _license(package: Distribution) -> str:
    """Return the license that a package states: an SPDX expression, a short name, or its classifier."""
    metadata = package.metadata
    for key in ("License-Expression", "License"):
        value = (metadata[key] or "").strip() if key in metadata else ""
        if value and len(value) <= MAX_LICENSE and "\n" not in value and value.upper() != "UNKNOWN":
            return value
    prefix = "License :: "
    classifiers = [one.rpartition(" :: ")[2] for one in metadata.get_all("Classifier") or [] if one.startswith(prefix)]
    return " / ".join(classifiers)
