"""A plan in torch's own integer operations: what its simulation computes, before and after the compiler had it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdc.compress.base import PASSES
from kdc.compress.plan import ModulePrecision, PrecisionPlan
from kdc.compress.simulate import simulated
from kdc.errors import KdcError
from kdc.export import inductor
from kdc.export.base import Graph
from kdc.export.inductor import Inductor
from kdc.export.integer_modules import IntegerModule, with_integers
from kdc.export.verified import export_verified
from kdc.models.rewrites import rewritten
from kdc.tasks.base import Encoder
from tests import tiny
from tests.compress import models
from tests.compress.test_matrix import made

EIGHT = ModulePrecision(dtype="int8", per_channel=True)
compiles = pytest.mark.skipif(Inductor().unusable() is not None, reason="torch finds no C++ compiler")


def planned(name: str, architecture: str, **settings: Any) -> tuple[Any, Any, PrecisionPlan]:
    built, rows = made(architecture)
    step = PASSES[name].model_validate({"name": name, **settings}).resolved()
    return built, rows, step.apply(built.model, PrecisionPlan(), rows).plan


def inputs(encoder: Encoder, rows: Any) -> dict[str, torch.Tensor]:
    arrays = encoder.collate(encoder.encode(rows.select(range(6))))
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@pytest.mark.parametrize(
    ("name", "architecture", "settings"),
    [
        ("int8", "bert", {}),
        ("int8", "bert", {"per_channel": False, "reduce_range": True}),
        ("int8", "bert", {"smooth": 0.5}),
        ("int8", "gpt2", {}),
        ("int8_static", "distilbert", {}),
        ("int8_static", "vit", {}),
        ("int8_static", "resnet", {}),
    ],
)
def test_it_computes_what_the_simulation_does(name: str, architecture: str, settings: dict[str, Any]) -> None:
    built, rows, plan = planned(name, architecture, **settings)
    model, batch = built.model.eval(), inputs(built.encoder, rows.rows)
    with torch.no_grad(), rewritten(model, plan.rewrites):
        exact = model(**batch).logits
        with simulated(model, plan):
            wanted = model(**batch).logits
        ours = with_integers(model, plan)(**batch).logits
    assert (wanted - exact).abs().max() > 1e-4
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)
    assert not any(isinstance(module, IntegerModule) for module in model.modules()), "the model is left as it was"


def test_a_shared_module_stays_one() -> None:
    shared = nn.Linear(4, 4)
    whole = with_integers(nn.Sequential(shared, nn.ReLU(), shared), PrecisionPlan(modules={"0": EIGHT, "2": EIGHT}))
    assert isinstance(whole.get_submodule("0"), IntegerModule)
    assert whole.get_submodule("0") is whole.get_submodule("2")


def test_what_cannot_be_had_is_refused() -> None:
    lstm = nn.Sequential(nn.LSTM(4, 4))
    with pytest.raises(KdcError, match=r"0 is an LSTM, which torch's compiler has not in int8; leave it out"):
        with_integers(lstm, PrecisionPlan(modules={"0": EIGHT}))
    circular = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"))
    with pytest.raises(KdcError, match="0 pads with other than zeros; take runtime=onnxruntime"):
        with_integers(circular, PrecisionPlan(modules={"0": EIGHT}))


@compiles
@pytest.mark.slow
@pytest.mark.parametrize(("name", "architecture"), [("int8", "bert"), ("int8_static", "vit")])
def test_the_compiler_melts_it_into_integer_kernels(
    name: str, architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ViT's first convolution reads a single channel, over which torch's integer kernels go wrong by themselves."""
    monkeypatch.setenv("KDC_CACHE", str(tmp_path / "key"))
    built, rows, plan = planned(name, architecture)
    folder = tmp_path / "artifact"
    folder.mkdir()
    seen = export_verified(built, plan, Inductor(), rows.task, rows.rows, folder)
    assert seen["precision"] == name
    assert seen["fidelity"]["agreement"] >= 0.98
    assert seen["fidelity"]["max_difference"] < 0.1 * seen["fidelity"]["spread"]
    assert seen["macs"]["int8"] >= seen["macs"]["eligible"] > 0
    graph: Graph = rows.task.graphs(built.model, built.encoder, rows.rows.select(range(3)))[0]
    module = with_integers(graph.module, plan, graph.prefix)
    assert inductor._integer_macs(module, graph, folder / "forward.pt2") == seen["macs"]["int8"]
    monkeypatch.setattr(inductor, "INTEGER_KERNEL", "no such kernel")
    assert inductor._integer_macs(module, graph, folder / "forward.pt2") == 0


def test_an_int8_lstm_is_refused_before_it_is_compiled(tmp_path: Path) -> None:
    built = tiny.built_text_net(models.ROWS, "bilstm")
    plan = PASSES["int8"].model_validate({"name": "int8"}).resolved().apply(built.model, PrecisionPlan()).plan
    with pytest.raises(KdcError, match="is an LSTM"):
        export_verified(built, plan, Inductor(), tiny.task(), models.ROWS, tmp_path)
