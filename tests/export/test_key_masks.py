"""Masks of one flag a key: the same answers from fewer operators, and left alone where a model looks one way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from kdc.export import modules
from kdc.export.key_masks import masks_by_key
from tests import tiny
from tests.compress import models


def masked(family: str) -> tuple[torch.Tensor, list[tuple[int, ...]]]:
    """The logits of rows of unlike lengths, and the shapes of the masks that attention got."""
    from transformers import AttentionInterface

    built = models.texts(family)
    seen: list[tuple[int, ...]] = []
    plain = AttentionInterface()["sdpa"]

    def watching(*inputs: torch.Tensor | None, **settings: object) -> object:
        seen.append(tuple(inputs[4].shape))  # type: ignore[union-attr]
        return plain(*inputs, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(AttentionInterface._global_mapping, "sdpa", watching)
        return models.answers(built), seen


@pytest.mark.parametrize(
    ("family", "both_ways"), [("bert", True), ("distilbert", True), ("roberta", True), ("gpt2", False)]
)
def test_masks_have_a_flag_a_key_where_a_model_looks_both_ways(family: str, both_ways: bool) -> None:
    wanted, whole = masked(family)
    with masks_by_key():
        got, seen = masked(family)
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)
    assert {shape[1:3] for shape in whole} != {(1, 1)}
    assert ({shape[1:3] for shape in seen} == {(1, 1)}) is both_ways
    assert masked(family)[1] == whole, "the block leaves nothing behind"


def test_graphs_are_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    built, rows = models.texts("bert"), tiny.sentences(4)
    graphs = tiny.task().graphs(built.model, built.encoder, rows)

    def operators() -> int:
        return len(modules.export_program(graphs[0]).graph.nodes)

    small = operators()

    @contextmanager
    def as_they_were() -> Iterator[None]:
        yield

    monkeypatch.setattr(modules, "masks_by_key", as_they_were)
    assert operators() >= small + 15
