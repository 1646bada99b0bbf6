"""The first_token pass: the same answers from fewer MACs, in every runtime, and refused where a head reads more."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdc.compress.first_token import FirstToken
from kdc.compress.int8 import Int8
from kdc.compress.plan import PrecisionPlan
from kdc.errors import KdcError
from kdc.export.base import RUNTIMES
from kdc.export.verified import export_verified
from kdc.models.first_token import is_shortened
from tests import tiny
from tests.compress import models

pytestmark = pytest.mark.slow


def planned(family: str, **settings: bool) -> PrecisionPlan:
    done = FirstToken(name="first_token").apply(models.texts(family).model, PrecisionPlan())
    assert done.lines == ["the last layer computes its first token alone"]
    return done.plan


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino"])
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_fewer_macs_and_the_same_answers(family: str, runtime: str, tmp_path: Path) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    seen = {}
    for name, plan in {"whole": PrecisionPlan(), "shortened": planned(family)}.items():
        built = models.texts(family)
        (tmp_path / name).mkdir()
        seen[name] = export_verified(
            built, plan, RUNTIMES[runtime](name=runtime), tiny.task(), models.ROWS, tmp_path / name
        )
        assert not is_shortened(built.model), "the model is as it was"
    rows, length = (
        3,
        max(models.texts(family).encoder.length(row) for row in models.texts(family).encoder.encode(models.ROWS)),
    )
    spared = rows * (length - 1) * (2 * 32 * 32 + 2 * 32 * 48)
    spared += rows * (length - 1) * 2 * length * 32
    assert seen["whole"]["macs"]["total"] - seen["shortened"]["macs"]["total"] == spared
    assert seen["shortened"]["fidelity"]["agreement"] == 1.0
    assert seen["shortened"]["parameters"] == seen["whole"]["parameters"]


@pytest.mark.parametrize("default", ["fp32", "bf16"])
def test_torch_ships_a_program_of_it(default: str, tmp_path: Path) -> None:
    plan = planned("bert").model_copy(update={"default": default})
    export_verified(models.texts("bert"), plan, RUNTIMES["torch"](name="torch"), tiny.task(), models.ROWS, tmp_path)
    assert (tmp_path / "forward.pt2").exists()


def test_int8_runs_what_is_left(tmp_path: Path) -> None:
    built = models.texts("bert")
    plan = Int8(name="int8", reduce_range=False).apply(built.model, planned("bert")).plan
    assert plan.rewrites == ("first_token",)
    seen = export_verified(built, plan, RUNTIMES["onnxruntime"](name="onnxruntime"), tiny.task(), models.ROWS, tmp_path)
    assert seen["macs"]["int8"] == seen["macs"]["eligible"] > 0


@pytest.mark.parametrize("family", ["gpt2"])
def test_a_head_that_reads_more_is_refused(family: str) -> None:
    with pytest.raises(KdcError, match=r"^compress\.first_token: the head of a GPT2ForSequenceClassification may"):
        FirstToken(name="first_token").apply(models.texts(family).model, PrecisionPlan())
