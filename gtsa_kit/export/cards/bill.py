"""Bill of materials of an artifact, in CycloneDX: its files by their hashes, and the packages that made it."""

import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gtsa_kit.export.cards.packages import Package, packages_behind
from gtsa_kit.export.cards.runtimes import MinimumVersions
from gtsa_kit.export.cards.shipped import Shipped
from gtsa_kit.version import __version__

if TYPE_CHECKING:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "gtsa-kit/bill-of-materials")
"""Namespace of serial numbers, which follow from the hashes of the files."""


def bill_of_materials(shipped: Shipped, minimum: MinimumVersions | None) -> str:
    """Return the bill of materials as JSON of CycloneDX 1.6.

    Args:
        shipped: The artifact.
        minimum: Oldest runtimes that open it, for ONNX files.
    """
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.tool import ToolRepository
    from cyclonedx.output.json import JsonV1Dot6

    packages = packages_behind(shipped.format)
    libraries = {package.name: _library(package) for package in packages}
    tool = Component(name="gtsa-kit", version=__version__, type=ComponentType.APPLICATION, bom_ref="gtsa-kit")
    main = _artifact(shipped, minimum)
    digests = " ".join(f"{name} {digest}" for name, digest in shipped.files.items())
    bill = Bom(
        components=libraries.values(),
        metadata=BomMetaData(component=main, tools=ToolRepository(components=[tool])),
        serial_number=uuid.uuid5(NAMESPACE, digests),
    )
    bill.register_dependency(main, libraries.values())
    for package in packages:
        bill.register_dependency(libraries[package.name], (libraries[name] for name in package.requires))
    return JsonV1Dot6(bill).output_as_string(indent=2) + "\n"


def _artifact(shipped: Shipped, minimum: MinimumVersions | None) -> "Component":
    """Return the artifact as a component: a model with the hash of its file, or one with a component for each file."""
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    hashes = {name: [HashType(alg=HashAlgorithm.SHA_256, content=digest)] for name, digest in shipped.files.items()}
    own = hashes.pop(shipped.path.name, [])
    return Component(
        name=shipped.path.resolve().name,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="artifact",
        hashes=own,
        components=[
            Component(name=name, type=ComponentType.FILE, bom_ref=f"file:{name}", hashes=digests)
            for name, digests in hashes.items()
        ],
        properties=_properties(shipped, minimum),
    )


def _properties(shipped: Shipped, minimum: MinimumVersions | None) -> "Iterable[Property]":
    from cyclonedx.model import Property

    values = {
        "format": shipped.format,
        "precision": shipped.precision,
        "source:sha256": shipped.source_sha256,
        "parity": "none" if shipped.parity is None else "passed" if shipped.parity.passed else "failed",
        **{f"target:{name}": value for name, value in shipped.target.items()},
    }
    if minimum:
        values |= {"onnx:opset": str(minimum.opset), "onnx:ir_version": str(minimum.ir_version)}
        values |= {"minimum:onnxruntime": minimum.onnxruntime, "minimum:triton": minimum.triton}
    return [Property(name=f"gtsa-kit:{name}", value=value) for name, value in values.items() if value]


def _library(package: Package) -> "Component":
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    record = [Property(name="gtsa-kit:record:sha256", value=package.record_sha256)] if package.record_sha256 else []
    return Component(
        name=package.name,
        version=package.version,
        bom_ref=f"{package.name}=={package.version}",
        purl=PackageURL("pypi", name=package.name, version=package.version),
        licenses=[LicenseFactory().make_from_string(package.license)] if package.license else [],
        properties=record,
    )
