"""Validation images of datasets without a split."""

import numpy as np
import pytest

from gtsa_kit.data.split_rule import SplitRule, choose_validation, group_names, parse_split_rule

VIDEOS = [
    f"{video}_{frame:04d}_leftImg8bit.png" for video, count in (("a", 10), ("b", 4), ("c", 6)) for frame in range(count)
]


def chosen(names: list[str], rule: str, labels: list[str] | None = None) -> set[str]:
    split = choose_validation(names, parse_split_rule(rule), labels)
    return {name for name, val in zip(names, split.validation, strict=True) if val}


@pytest.mark.parametrize("rule", ["0.3", "0.3:prefix", "0.3:regex=^(.)_", "0.3:regex=^._"])
def test_frames_of_one_video_are_on_one_side(rule: str) -> None:
    shuffled = np.random.default_rng(0).permutation(VIDEOS).tolist()
    assert chosen(VIDEOS, rule) == chosen(shuffled, rule) == {name for name in VIDEOS if name[0] == "c"}
    assert "1 of 3 groups" in choose_validation(VIDEOS, parse_split_rule(rule)).description


@pytest.mark.parametrize("seed", range(20))
def test_groups_are_whole_and_neither_side_is_empty(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"{folder}/{i}.png" for folder in range(2 + seed % 5) for i in range(rng.integers(1, 30))]
    rule = SplitRule(rng.uniform(0.05, 0.95), "folder")
    val = choose_validation(names, rule).validation
    assert 0 < val.sum() < len(names)
    sides = {(name.split("/")[0], bool(side)) for name, side in zip(names, val, strict=True)}
    assert len(sides) == 2 + seed % 5


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["x/a_01.png", "x/a_02.png", "y/a_03.png"], ["x/a_", "x/a_", "y/a_"]),
        (["a1_7.jpg", "a1_8.jpg", "a2_8.jpg"], ["./a1_", "./a1_", "./a2_"]),
        (["v1_0010_gt8.png", "v1_0020_gt8.png", "v2_0010_gt8.png"], ["./v1_", "./v1_", "./v2_"]),
        (["0001.png", "0002.png"], ["./", "./"]),
    ],
)
def test_a_prefix_ends_before_the_last_number(names: list[str], groups: list[str]) -> None:
    assert group_names(names, SplitRule(by="prefix")) == groups


def test_order_takes_the_last_images_and_auto_falls_back_to_it() -> None:
    names = [f"{i}.png" for i in range(1, 21)]
    for rule in ("0.2", "0.2:order"):
        assert chosen(names, rule) == {"17.png", "18.png", "19.png", "20.png"}
    words = ["cat.png", "dog.png", "emu.png", "fox.png"]
    assert chosen(words, "0.25") == {"fox.png"}
    with pytest.raises(ValueError, match=r"all 20 images are one group by prefix; take the last ones by 0\.2:order"):
        chosen(names, "0.2:prefix")


def test_random_is_by_seed_and_on_request_alone() -> None:
    names = [f"{i}.png" for i in range(50)]
    drawn = [choose_validation(names, SplitRule(0.2, "random", seed=seed)).validation for seed in (0, 0, 1)]
    assert drawn[0].sum() == 10
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()
    assert "at random with seed 1" in choose_validation(names, SplitRule(0.2, "random", seed=1)).description


def test_each_class_has_its_part_unless_a_group_spans_classes() -> None:
    names = [f"{label}/{i}.png" for label in ("cat", "dog") for i in range(10)] + ["emu/0.png"]
    labels = [name.split("/")[0] for name in names]
    for rule in ("0.2", "0.2:order"):
        assert chosen(names, rule, labels) == {"cat/8.png", "cat/9.png", "dog/8.png", "dog/9.png"}
    random = [name.split("/")[0] for name in chosen(names, "0.2:random", labels)]
    assert sorted(random) == ["cat", "cat", "dog", "dog"]
    videos = [f"{label}/v{video}_{i}.png" for label in ("cat", "dog") for video in (1, 2) for i in range(5)]
    of_class = [name.split("/")[0] for name in videos]
    assert chosen(videos, "0.5", of_class) == {name for name in videos if "v2_" in name}
    assert chosen(videos, "0.5:regex=v[0-9]", of_class) == {name for name in videos if "v2_" in name}
    with pytest.raises(ValueError, match="all 10 images of class cat are one group by folder"):
        chosen(videos, "0.5:folder", of_class)


@pytest.mark.parametrize("text", ["", "2", "0", "1", "nan", "x", "0.2:left", "0.2:regex", "0.2:order=3", "0.2:regex=("])
def test_an_invalid_rule_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"; write 0\.2, 0\.2:prefix"):
        parse_split_rule(text)


def test_a_name_that_the_pattern_does_not_match_is_named() -> None:
    with pytest.raises(ValueError, match=r"1 names do not match 'v\[0-9\]', first x\.png"):
        chosen(["v1.png", "x.png"], "0.5:regex=v[0-9]")
