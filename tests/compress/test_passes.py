"""What the passes write into the precision plan."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from kdc.compress.base import PASSES
from kdc.compress.bf16 import Bf16
from kdc.compress.int8 import Int8
from kdc.compress.plan import ModulePrecision, PrecisionPlan
from kdc.errors import KdcError
from kdc.models.nets import CNN, CNNConfig
from tests import tiny


def planned(model: Any, **settings: Any) -> PrecisionPlan:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    done = Int8(name="int8", **settings).apply(model, PrecisionPlan())
    same, plan = done.model, done.plan
    assert same is model
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    return plan


def test_int8_plans_every_linear_and_stores_every_embedding() -> None:
    plan = planned(tiny.bert(60, layers=1), reduce_range=False)
    layer = "bert.encoder.layer.0"
    linears = {
        *(f"{layer}.attention.self.{name}" for name in ("query", "key", "value")),
        f"{layer}.attention.output.dense",
        f"{layer}.intermediate.dense",
        f"{layer}.output.dense",
        "bert.pooler.dense",
        "classifier",
    }
    embeddings = {f"bert.embeddings.{name}_embeddings" for name in ("word", "position", "token_type")}
    assert set(plan.modules) == linears | embeddings
    assert {plan.modules[name] for name in linears} == {ModulePrecision(dtype="int8", per_channel=True)}
    assert {plan.modules[name] for name in embeddings} == {ModulePrecision(dtype="int8", weights_only=True)}
    assert plan.precision == "int8"
    assert plan.default == "fp32"
    assert not plan.excluded


def test_int8_settings_reach_the_plan() -> None:
    model = tiny.bert(60)
    name = "classifier"
    assert planned(model, per_channel=False).modules[name].per_channel is False
    assert planned(model, reduce_range=True).modules[name].reduce_range is True
    assert planned(model, reduce_range=False).modules[name].reduce_range is False
    assert not any("embeddings" in module for module in planned(model, embeddings=False).modules)


def test_reduce_range_is_decided_by_the_machine_unless_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_dot in (True, False):
        monkeypatch.setattr("kdc.compress.quantizer.has_int8_dot", lambda has_dot=has_dot: has_dot)
        assert Int8(name="int8").resolved().reduce_range is not has_dot
        assert planned(tiny.bert(60)).modules["classifier"].reduce_range is not has_dot
        assert Int8(name="int8", reduce_range=has_dot).resolved().reduce_range is has_dot


def test_excluded_modules_stay_out_with_the_reason() -> None:
    plan = planned(tiny.bert(60), exclude=["*.layer.1.*", "classifier"])
    assert plan.excluded["classifier"] == "exclude: classifier"
    assert plan.excluded["bert.encoder.layer.1.output.dense"] == "exclude: *.layer.1.*"
    assert len(plan.excluded) == 7
    assert not set(plan.excluded) & set(plan.modules)


def test_a_pattern_that_names_nothing_is_refused() -> None:
    with pytest.raises(KdcError, match=r"compress\.int8\.exclude: 'clasifier' names none.*classifier"):
        planned(tiny.bert(60), exclude=["clasifier"])


def test_convolutions_are_left_in_float_and_conv1d_of_gpt2_is_a_linear() -> None:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    cnn = planned(CNN(CNNConfig(image_size=8, channels=[4], hidden_size=8)))
    assert set(cnn.modules) == {"layers.5", "layers.8"}
    gpt2 = GPT2ForSequenceClassification(GPT2Config(vocab_size=60, n_embd=32, n_layer=1, n_head=2, n_positions=32))
    assert {name for name in planned(gpt2).modules if ".h.0." in name} == {
        f"transformer.h.0.{name}" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }


def test_int8_adds_to_the_plan_that_it_gets() -> None:
    before = PrecisionPlan(modules={"other": ModulePrecision(dtype="int8")}, excluded={"head": "because"})
    plan = Int8(name="int8").apply(tiny.bert(60), before).plan
    assert {"other", "classifier"} <= set(plan.modules)
    assert plan.excluded == {"head": "because"}
    assert set(before.modules) == {"other"}, "a plan is never changed in place"


def test_bf16_is_the_default_of_everything() -> None:
    model = tiny.bert(60)
    done = Bf16(name="bf16").apply(model, PrecisionPlan())
    same, plan = done.model, done.plan
    assert same is model
    assert (plan.default, plan.precision, plan.modules) == ("bf16", "bf16", {})


def test_what_is_slow_on_the_processor_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the run, not of a stage, which another machine may have computed."""
    monkeypatch.setenv("KDC_CPU_FLAGS", "avx2")
    assert Bf16(name="bf16").remarks() == ["a CPU without bf16 computes it in other ways, slower than fp32"]
    saturates = "weights in 7 bits (reduce_range): a CPU without an int8 dot product would saturate sums of 8"
    assert Int8(name="int8").remarks() == [saturates]
    assert Int8(name="int8", reduce_range=True).remarks() == ["weights in 7 bits (reduce_range): it was asked for"]
    assert Int8(name="int8", reduce_range=False).remarks() == []
    monkeypatch.setenv("KDC_CPU_FLAGS", "avx512_vnni,avx512_bf16")
    assert Bf16(name="bf16").remarks() == Int8(name="int8").remarks() == []


def test_passes_are_found_by_name_and_refuse_what_they_do_not_know() -> None:
    assert {"int8", "bf16"} <= set(PASSES)
    assert (Int8(name="int8").precision, Bf16(name="bf16").precision) == ("int8", "bf16")
    with pytest.raises(ValidationError, match="perchannel"):
        Int8.model_validate({"name": "int8", "perchannel": True})
