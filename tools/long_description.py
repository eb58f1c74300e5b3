"""Long description of the package: the README, whose relative links mean nothing on the page of an index."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+://|#)([^)]+)\)")


class LongDescription(MetadataHookInterface):
    """Hook of hatchling that sets the long description."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the README with absolute links."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        base = metadata.get("urls", {}).get("Repository", "")
        metadata["readme"] = {"content-type": "text/markdown", "text": with_absolute_links(text, base)}


def with_absolute_links(text: str, base: str) -> str:
    """Return a page with its relative links below `base`; without a base, links become their text, pictures go."""

    def replace(match: re.Match[str]) -> str:
        picture, label, target = match.groups()
        if base:
            return f"{picture}[{label}]({base.rstrip('/')}/{target})"
        return "" if picture else label

    return LINK.sub(replace, text)
