"""Lists of pairs of images."""

from pathlib import Path


def read_pairs(file: Path) -> list[tuple[Path, Path]]:
    """Read pairs of images from a text file: two tab-separated paths a line, relative to the file's folder.

    Raises:
        ValueError: The file is not text, has no pairs, or has a line that is not a pair.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a text file of pairs: {error}") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        names = line.strip().split("\t")
        if len(names) != 2:
            raise ValueError(f"{file}, line {number}: expected two paths with a tab between, got {line.strip()!r}")
        pairs.append((file.parent / names[0], file.parent / names[1]))
    if not pairs:
        raise ValueError(f"{file} holds no pairs; write two paths a line, with a tab between")
    return pairs
