"""Options of the graphs that tests export and share; a trace takes seconds."""

from gtsa_kit.export.spec import Range

ANY_SIZE: dict[str, object] = {}
FIXED = {"height": Range(96, 96), "width": Range(160, 160), "layers": (1, 0), "class_token": True}
BOUNDED = {
    "height": Range(64, 256),
    "width": Range(48, 320),
    "batch": Range(1, 4),
    "input": "uint8",
    "layers": (1, 0),
}
GRAPHS = {
    "any size": ANY_SIZE,
    "fixed, layers": FIXED,
    "fixed, uint8": FIXED | {"input": "uint8"},
    "bounded, uint8": BOUNDED,
}
