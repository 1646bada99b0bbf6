"""Which layer learns from which."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from kdc.distill.terms.layer_map import LayerMap, layer_pairs, state_pairs


@pytest.mark.parametrize(
    ("student", "teacher", "learns"),
    [(4, 12, [3, 6, 9, 12]), (6, 12, [2, 4, 6, 8, 10, 12]), (3, 3, [1, 2, 3]), (4, 6, [2, 3, 5, 6]), (1, 6, [6])],
)
def test_uniform_is_tinyberts_map(student: int, teacher: int, learns: list[int]) -> None:
    """g(m) = 3m of 4 layers and 12, counted from 1 (arXiv:1909.10351, section 4.1); else spread evenly to the last."""
    assert layer_pairs("uniform", student, teacher) == [(m, layer - 1) for m, layer in enumerate(learns)]


@pytest.mark.parametrize(
    ("choice", "pairs"),
    [
        ("top", [(0, 2), (1, 3)]),
        ("bottom", [(0, 0), (1, 1)]),
        ("last", [(1, 3)]),
        ([(0, 3), (1, 0)], [(0, 3), (1, 0)]),
    ],
)
def test_the_other_maps_of_two_layers_and_four(choice: Any, pairs: list[tuple[int, int]]) -> None:
    assert layer_pairs(choice, 2, 4) == pairs
    assert state_pairs(choice, [None] * 3, [None] * 5) == [(ours + 1, theirs + 1) for ours, theirs in pairs]


@pytest.mark.parametrize("choice", ["uniform", "top", "bottom"])
def test_every_layer_needs_one_of_the_teachers(choice: Any) -> None:
    with pytest.raises(ValueError, match=rf"layer_map: {choice} needs a teacher with as many layers .* \(3 < 4\)"):
        layer_pairs(choice, 4, 3)
    assert layer_pairs("last", 4, 3) == [(3, 2)]


@pytest.mark.parametrize("pair", [(2, 0), (0, 4), (-1, 0), (0, -1)])
def test_layers_that_are_not_there_are_refused(pair: tuple[int, int]) -> None:
    wanted = rf"layer_map: \[{pair[0]}, {pair[1]}\] is out of range; the student has layers 0 to 1, the teacher 0 to 3"
    with pytest.raises(ValueError, match=wanted):
        layer_pairs([(1, 3), pair], 2, 4)


@pytest.mark.parametrize("wrong", ["skip", [], [[0]], [[0, 1, 2]], [["a", 1]], None])
def test_what_is_no_map_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(LayerMap).validate_python(wrong)


def test_yaml_has_lists_for_pairs() -> None:
    assert TypeAdapter(LayerMap).validate_python([[0, 1], [2, 5]]) == [(0, 1), (2, 5)]
