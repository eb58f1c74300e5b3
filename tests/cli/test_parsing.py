"""Parsing of option values."""

from collections.abc import Callable

import pytest

from gtsa_kit.cli.support.parsing import (
    parse_batch,
    parse_capabilities,
    parse_color,
    parse_layers,
    parse_side,
    parse_sizes,
)
from gtsa_kit.export.spec import ANY_SIZE, Range


def test_option_values_are_parsed() -> None:
    assert parse_side("224", "--size") == (224, 224)
    assert parse_side("480x640", "--size") == (480, 640)
    assert parse_sizes(None, None, None) == (ANY_SIZE, ANY_SIZE)
    assert parse_sizes("480x640", None, None) == (Range(480, 480), Range(640, 640))
    assert parse_sizes(None, "96", "480x640") == (Range(96, 480), Range(96, 640))
    assert parse_batch("8") == (Range(8, 8), None)
    assert parse_batch("1:32") == (Range(1, 32), None)
    assert parse_batch("1:8:32") == (Range(1, 32), 8)
    assert parse_capabilities("8.9,12.0,8.9") == ("8.9", "12.0")
    assert parse_layers("2,5, 8,11") == (2, 5, 8, 11)
    assert parse_layers(None) == ()
    assert parse_color("0.5,0.4,0.3", "--mean") == (0.5, 0.4, 0.3)
    assert parse_color(None, "--mean") is None


@pytest.mark.parametrize(
    ("parse", "word"),
    [
        (lambda: parse_sizes("224", None, "448"), "--size fixes the size"),
        (lambda: parse_side("224x", "--size"), "N or HEIGHTxWIDTH"),
        (lambda: parse_side("-16", "--size"), "N or HEIGHTxWIDTH"),
        (lambda: parse_side("1x2x3", "--max-size"), "--max-size"),
        (lambda: parse_batch("1:8:16:32"), "MIN:OPT:MAX"),
        (lambda: parse_batch("many"), "MIN:OPT:MAX"),
        (lambda: parse_capabilities("89"), "8.6,8.9"),
        (lambda: parse_capabilities("sm_89"), "8.6,8.9"),
        (lambda: parse_layers("last"), "2,5,8,11"),
        (lambda: parse_layers("1,,2"), "2,5,8,11"),
        (lambda: parse_color("0.5", "--mean"), "--mean takes three numbers"),
        (lambda: parse_color("a,b,c", "--std"), "--std takes three numbers"),
    ],
)
def test_errors_name_the_option_and_its_format(parse: Callable[[], object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        parse()
