"""Names of output files: one for each image, below the folder."""

from itertools import combinations
from pathlib import PurePosixPath, PureWindowsPath

from gtsa_kit.tasks.output_names import output_name

NAMES = [
    *("a/b.jpg", "a/b.png", "a/b.jpg.png", "a/b.jpg.png/c.jpg", "b.jpg", "/a/b.jpg", "../a/b.jpg", "../../a/b.jpg"),
    *(
        "%2E%2E/a/b.jpg",
        "a/../b.jpg",
        "a/./b.jpg",
        "a//b.jpg",
        "C:\\temp\\b.jpg",
        "https://host/b.jpg?x=1",
        "ü 日本/é.jpg",
    ),
    *("50%.jpg", "50%25.jpg", "50%~3.jpg", "a\nb.jpg", "a\tb.jpg", "x" * 300 + ".jpg", "x" * 301 + ".jpg", "日" * 300),
    *("..", ".", "con", ".hidden.jpg"),
]


def test_names_differ_and_stay_inside_of_the_folder() -> None:
    outputs = [output_name(name, ".png", frozenset(), 0) for name in NAMES]
    for first, second in combinations(range(len(NAMES)), 2):
        assert outputs[first] != outputs[second], (NAMES[first], NAMES[second])
    for name in outputs:
        parts = PurePosixPath(name).parts
        assert not PurePosixPath(name).is_absolute()
        assert "/".join(parts) == name
        assert ".." not in parts
        assert not PureWindowsPath(name).drive
        assert all(len(part.encode()) < 250 for part in parts)
        assert "\\" not in name
        assert name.isprintable()
    folders = {str(parent) for name in outputs for parent in PurePosixPath(name).parents}
    assert not folders & set(outputs), "a file and a folder of one name"


def test_plain_names_are_kept_and_repeated_ones_numbered() -> None:
    assert output_name("ü 日本/9 b.jpg", ".png", frozenset(), 4) == "ü 日本/9 b.jpg.png"
    repeated = frozenset({"b.jpg"})
    assert output_name("b.jpg", ".png", repeated, 4) == "b.jpg%~4.png"
    assert output_name("a/b.jpg", ".png", repeated, 5) == "a/b.jpg.png"
