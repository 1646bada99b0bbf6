"""Shared layers: means by hand, fewer weights in memory and on disk, the same answers when loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kdc.compress.base import PASSES
from kdc.compress.int8 import Int8
from kdc.compress.plan import PrecisionPlan
from kdc.errors import KdcError
from kdc.export.base import RUNTIMES
from kdc.export.verified import export_verified
from kdc.models.build import Built, load_model, save_model
from kdc.models.layers import layer_stack
from kdc.models.rewrites import rewritten
from kdc.models.shapes import shared
from tests import tiny
from tests.compress import models


def tied(built: Built, **settings: Any) -> list[str]:
    return PASSES["share"](name="share", **settings).apply(built.model, PrecisionPlan()).lines


@pytest.mark.parametrize("start", ["mean", "first"])
def test_a_group_has_the_weights_of_its_mean_or_first_layer(start: str) -> None:
    before, built = models.texts("bert").model.bert.encoder.layer, models.texts("bert")
    lines = tied(built, start=start)
    after = built.model.bert.encoder.layer
    assert lines == ["bert.encoder.layer.1: the weights of layer 0"]
    assert after[1] is after[0]
    assert after[2] is not after[0]
    for name, weight in after[0].named_parameters():
        one, other = (before[number].get_parameter(name) for number in (0, 1))
        torch.testing.assert_close(weight, (one + other) / 2 if start == "mean" else one)
    torch.testing.assert_close(after[2].state_dict(), before[2].state_dict())


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2"])
def test_shared_weights_are_kept_once_and_load_again(family: str, tmp_path: Path) -> None:
    built = models.texts(family)
    name, _ = layer_stack(built.model)
    layer = sum(parameter.numel() for parameter in built.model.get_submodule(f"{name}.0").parameters())
    before = sum(parameter.numel() for parameter in built.model.parameters())
    save_model(built, tmp_path / "whole")
    assert len(tied(built, every=3)) == 2
    assert before - sum(parameter.numel() for parameter in built.model.parameters()) == 2 * layer
    assert shared(built.model) == {f"{name}.1": f"{name}.0", f"{name}.2": f"{name}.0"}
    save_model(built, tmp_path / "shared")
    files = [load_file(tmp_path / folder / "model.safetensors") for folder in ("whole", "shared")]
    sizes = [sum(tensor.numel() for tensor in tensors.values()) for tensors in files]
    assert sizes[0] - sizes[1] == 2 * layer
    again = load_model(tmp_path / "shared", tiny.task())
    torch.testing.assert_close(models.answers(again), models.answers(built), rtol=0, atol=0)
    assert shared(again.model) == shared(built.model)
    again.model.train()
    again.model(**models.batch(again)).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in again.model.get_submodule(f"{name}.2").parameters())


@pytest.mark.slow
def test_an_onnx_file_keeps_them_once_too(tmp_path: Path) -> None:
    sizes = []
    for folder in ("whole", "shared"):
        built = models.texts("gpt2")
        layer = sum(parameter.numel() for parameter in built.model.transformer.h[0].parameters())
        if folder == "shared":
            tied(built, every=3)
        (tmp_path / folder).mkdir()
        runtime = RUNTIMES["onnxruntime"](name="onnxruntime")
        export_verified(built, PrecisionPlan(), runtime, tiny.task(), models.ROWS, tmp_path / folder)
        sizes.append((tmp_path / folder / "forward.onnx").stat().st_size)
    assert sizes[0] - sizes[1] == pytest.approx(2 * 4 * layer, rel=0.1)


@pytest.mark.slow
def test_torch_ships_a_program_of_it(tmp_path: Path) -> None:
    built = models.texts("bert")
    tied(built)
    export_verified(built, PrecisionPlan(), RUNTIMES["torch"](name="torch"), tiny.task(), models.ROWS, tmp_path)
    assert (tmp_path / "forward.pt2").exists()


def test_what_cannot_share_is_refused() -> None:
    built = models.texts("bert")
    PASSES["prune_ffn"](name="prune_ffn", score="l2", include=["*.1"]).apply(built.model, PrecisionPlan())
    with pytest.raises(KdcError, match="layers 0 to 1 differ in shape, so they cannot share weights; cut them alike"):
        tied(built)
    with pytest.raises(KdcError, match="the model has one layer"):
        tied(tiny.built_bert(models.ROWS, layers=1))
    with pytest.raises(KdcError, match="include and exclude leave no two layers next to one another; exclude fewer"):
        tied(models.texts("bert"), exclude=["*.1"])


@pytest.mark.parametrize("name", ["prune_ffn", "mask_search"])
def test_shared_layers_have_no_heads_and_neurons_of_their_own(name: str) -> None:
    built = models.texts("bert")
    tied(built)
    with pytest.raises(KdcError, match=f"compress.{name}: layers share their weights; cut them before they are shared"):
        PASSES[name](name=name).targets(built.model)


def test_include_and_exclude_name_layers() -> None:
    def lines(**settings: Any) -> list[str]:
        return [
            line.removeprefix("bert.encoder.layer.")
            for line in tied(tiny.built_bert(models.ROWS, layers=6), **settings)
        ]

    first = "the weights of layer"
    assert lines(every=3) == [f"1: {first} 0", f"2: {first} 0", f"4: {first} 3", f"5: {first} 3"]
    assert lines(every=3, exclude=["*.0"]) == [f"2: {first} 1", f"3: {first} 1", f"5: {first} 4"]
    assert lines(exclude=["*.2"]) == [f"1: {first} 0", f"4: {first} 3"]
    assert lines(include=["*.4", "*.5"]) == [f"5: {first} 4"]


@pytest.mark.parametrize("every", [2, 3])
def test_a_shared_last_layer_is_shortened_and_those_before_it_are_not(every: int) -> None:
    """What spares a classifier its other tokens spares the layer that is last, not the one whose weights it has."""
    built = models.texts("bert")
    tied(built, every=every)
    wanted, layers = models.answers(built), list(built.model.bert.encoder.layer)
    weights = {name: id(weight) for name, weight in built.model.named_parameters()}
    done = PASSES["first_token"](name="first_token").apply(built.model, PrecisionPlan())
    with rewritten(built.model, done.plan.rewrites):
        torch.testing.assert_close(models.answers(built), wanted)
        assert built.model.base_model(**models.batch(built)).last_hidden_state.shape[1] == 1
        assert {name: id(weight) for name, weight in built.model.named_parameters()} == weights
    assert all(one is other for one, other in zip(built.model.bert.encoder.layer, layers, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_a_shared_and_shortened_last_layer_ships(runtime: str, tmp_path: Path) -> None:
    built = models.texts("bert")
    tied(built, every=3)
    done = PASSES["first_token"](name="first_token").apply(built.model, PrecisionPlan())
    export_verified(built, done.plan, RUNTIMES[runtime](name=runtime), tiny.task(), models.ROWS, tmp_path)


def test_factors_are_not_averaged() -> None:
    built = models.texts("bert")
    PASSES["svd"](name="svd", method="plain", rank=4).apply(built.model, PrecisionPlan())
    with pytest.raises(KdcError, match=r"factors have no common basis, .*; share before svd, or take"):
        tied(built)
    tied(built, start="first", every=2)


def test_layers_that_share_are_not_told_apart() -> None:
    built = models.texts("bert")
    tied(built)
    with pytest.raises(KdcError, match="layers share their weights; put prune_layers before share"):
        PASSES["prune_layers"](name="prune_layers", score="top").apply(built.model, PrecisionPlan())


@pytest.mark.slow
@pytest.mark.parametrize("size", ["tiny", "too large for the exporter to fold what turns a weight"])
def test_shared_layers_run_in_int8_in_every_place(size: str, tmp_path: Path) -> None:
    built = models.texts("distilbert") if size == "tiny" else tiny.built_bert(models.ROWS, layers=3, hidden_size=128)
    tied(built, every=3)
    plan = Int8(name="int8", reduce_range=False).apply(built.model, PrecisionPlan()).plan
    runtime = RUNTIMES["onnxruntime"](name="onnxruntime")
    seen = export_verified(built, plan, runtime, tiny.task(), models.ROWS, tmp_path)
    assert seen["macs"]["int8"] == seen["macs"]["eligible"] > 0
