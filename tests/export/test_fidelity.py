"""Faults planted into an export are caught before anything is measured; a good export passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdc.compress.base import PASSES
from kdc.compress.calibration import Calibration
from kdc.compress.int8 import Int8
from kdc.compress.plan import PrecisionPlan
from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.export.base import RUNTIMES, Arrays, Graph
from kdc.export.fidelity import check_fidelity, trial_batches
from kdc.export.modules import graph_callables
from kdc.export.verified import export_verified
from kdc.models.build import Built
from tests import tiny

pytestmark = pytest.mark.slow

ROWS = tiny.sentences(40)


class Faulty(nn.Module):
    """`model` as the exporter might get it wrong."""

    def __init__(self, model: nn.Module, fault: str) -> None:
        super().__init__()
        self.model, self.fault = model, fault

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        ids, segments, mask = inputs
        if self.fault == "mask dropped":
            mask = torch.ones_like(mask)
        if self.fault == "segments dropped":
            segments = torch.ones_like(segments)
        (logits,) = self.model(ids, segments, mask)
        if self.fault == "labels swapped":
            logits = logits.flip(-1)
        if self.fault == "batch mixed":
            logits = logits + logits.mean(dim=0, keepdim=True)
        if self.fault == "not a number":
            logits = logits / (logits.sum() * 0)
        if self.fault == "wide":
            logits = torch.cat([logits, logits], dim=-1)
        return (logits,)


@pytest.fixture(scope="module")
def built() -> Built:
    return tiny.built_bert(ROWS)


def spoil_export(monkeypatch: pytest.MonkeyPatch, change: Callable[[Graph], Graph]) -> None:
    """What is lowered is `change`d; what it is held against is not."""
    for name in RUNTIMES:
        original = RUNTIMES[name].lower

        def lower(self: Any, graphs: Any, plan: PrecisionPlan, folder: Path, original: Any = original) -> None:
            original(self, [change(graph) for graph in graphs], plan, folder)

        monkeypatch.setattr(RUNTIMES[name], "lower", lower)


def exported(
    built: Built,
    folder: Path,
    *,
    runtime: str = "onnxruntime",
    plan: PrecisionPlan | None = None,
    rows: Examples = ROWS,
) -> Any:
    runtime_ = RUNTIMES[runtime](name=runtime)
    folder.mkdir(exist_ok=True)
    return export_verified(built, plan or PrecisionPlan(), runtime_, tiny.task(), rows, folder)


def faulty(fault: str) -> Callable[[Graph], Graph]:
    return lambda graph: replace(graph, module=Faulty(graph.module, fault), prefix="model.model.")


@pytest.mark.parametrize("runtime", tiny.PORTABLE)
def test_a_good_export_passes_and_says_what_was_seen(built: Built, tmp_path: Path, runtime: str) -> None:
    seen = exported(built, tmp_path, runtime=runtime)
    assert seen["fidelity"]["rows"] == 40
    assert seen["fidelity"]["agreement"] == 1.0
    assert seen["fidelity"]["max_difference"] < 1e-4
    parameters = [p.detach().numpy() for p in built.model.parameters()]
    assert seen["parameters"] == {
        "total": sum(p.size for p in parameters),
        "nonzero": sum(int(np.count_nonzero(p)) for p in parameters),
    }
    assert seen["macs"]["total"] > 0
    assert (seen["macs"]["int8"], seen["macs"]["eligible"]) == (0, 0)
    assert (seen["precision"], seen["excluded"]) == ("fp32", {})


@pytest.mark.parametrize(
    ("fault", "runtime"),
    [
        ("mask dropped", "torch"),
        ("mask dropped", "onnxruntime"),
        ("labels swapped", "torch"),
        ("labels swapped", "onnxruntime"),
        ("labels swapped", "openvino"),
        ("segments dropped", "torch"),
        ("batch mixed", "torch"),
    ],
)
def test_planted_faults_are_caught(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, runtime: str
) -> None:
    spoil_export(monkeypatch, faulty(fault))
    with pytest.raises(KdcError, match=rf"export to {runtime} \(fp32\) does not compute what the model comp") as caught:
        exported(built, tmp_path, runtime=runtime)
    assert caught.value.exit_code == 1
    assert "of the answers agree" in str(caught.value)
    assert "the largest difference is" in str(caught.value)


@pytest.mark.parametrize("fault", ["not a number", "wide"])
def test_outputs_of_the_wrong_kind_are_caught(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    spoil_export(monkeypatch, faulty(fault))
    with pytest.raises(KdcError, match=r"output 'logits' is .* or not finite"):
        exported(built, tmp_path, runtime="torch")


def test_a_wrong_weight_is_caught_in_a_transformers_folder(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(graph: Graph) -> Graph:
        import copy

        module = copy.deepcopy(graph.module)
        with torch.no_grad():
            module.model.bert.encoder.layer[1].output.dense.weight[3] *= 1.5  # type: ignore[union-attr,index]
        return replace(graph, module=module)

    spoil_export(monkeypatch, wrong)
    with pytest.raises(KdcError, match=r"export to torch \(fp32\) does not compute"):
        exported(built, tmp_path, runtime="torch")


@pytest.mark.parametrize("name", ["int8", "int8_static", "int4_weights"])
def test_a_wrong_weight_is_caught_behind_rounding(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The float model could not tell: 4 bits change more than this does."""

    def wrong(graph: Graph) -> Graph:
        import copy

        module = copy.deepcopy(graph.module)
        with torch.no_grad():
            module.model.bert.encoder.layer[1].output.dense.bias[3] += 2  # type: ignore[union-attr,index]
        return replace(graph, module=module)

    rows = Calibration(tiny.task(), built.encoder, ROWS)
    plan = PASSES[name](name=name).apply(built.model, PrecisionPlan(), rows).plan
    (tmp_path / "good").mkdir()
    seen = exported(built, tmp_path / "good", plan=plan)["fidelity"]
    assert seen["agreement"] >= seen["in_float"]
    spoil_export(monkeypatch, wrong)
    with pytest.raises(KdcError, match=rf"\({name}\) does not compute"):
        exported(built, tmp_path, plan=plan)


def test_swapped_labels_are_caught_in_int8(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Int8(name="int8").apply(built.model, PrecisionPlan()).plan
    spoil_export(monkeypatch, faulty("labels swapped"))
    with pytest.raises(KdcError, match=r"\(int8\) does not compute"):
        exported(built, tmp_path, plan=plan)


def test_ties_may_go_either_way(built: Built) -> None:
    """Two classes within rounding of each other are no disagreement; beyond it they are."""
    graphs = graph_callables(tiny.task().graphs(built.model, built.encoder, ROWS.select([0, 1])))

    def shifted(by: float) -> Any:
        def call(batch: Arrays) -> Arrays:
            logits = graphs["forward"](batch)["logits"]
            middle = logits.mean(axis=-1, keepdims=True)
            spread = np.where(logits > middle, 1, -1) * by
            return {"logits": middle + spread}

        return {"forward": call}

    def outputs(by: float) -> list[Arrays]:
        return [shifted(by)["forward"](batch) for batch in trial_batches(built.encoder, ROWS, max_length=32)]

    assert check_fidelity("it", outputs(-1e-5), outputs(1e-5), "fp32").agreement == 1.0
    with pytest.raises(KdcError, match=r"it \(fp32\) does not .*: 0\.0% of the answers agree"):
        check_fidelity("it", outputs(-0.3), outputs(0.3), "fp32")


def test_outputs_without_floats_are_compared_too() -> None:
    """A decoder may return nothing but tokens."""

    def says(token: int) -> list[Arrays]:
        return [{"tokens": np.full((rows, 3), token)} for rows in (1, 1, 8)]

    assert check_fidelity("it", says(1), says(1), "fp32").agreement == 1.0
    with pytest.raises(KdcError, match=r"0\.0% of the answers agree"):
        check_fidelity("it", says(2), says(1), "fp32")


# int8 coverage


def test_int8_counts_what_runs_and_what_was_left_out(built: Built, tmp_path: Path) -> None:
    plan = Int8(name="int8", exclude=["classifier", "*.layer.0.*"]).apply(built.model, PrecisionPlan()).plan
    seen = exported(built, tmp_path, plan=plan)
    assert seen["macs"]["int8"] == seen["macs"]["eligible"] > 0
    assert set(seen["excluded"]) == set(plan.excluded)
    assert seen["precision"] == "int8"


def test_int8_that_does_not_reach_the_linears_fails_unless_they_are_excluded(built: Built, tmp_path: Path) -> None:
    whole = Int8(name="int8").apply(built.model, PrecisionPlan()).plan
    lost = {name for name in whole.modules if ".layer.1." in name}
    holes = whole.model_copy(update={"modules": {n: p for n, p in whole.modules.items() if n not in lost}})
    with pytest.raises(
        KdcError, match=r"int8 on onnxruntime: 5\d\.\d% of the MACs that it is for.*at least 95%"
    ) as caught:
        exported(built, tmp_path, plan=holes)
    assert "compress.int8.exclude" in caught.value.remedy
    (tmp_path / "second").mkdir()
    for rows in (1, 2):  # of one row, nothing tells by itself what is the same for all
        with pytest.raises(KdcError, match="int8 on onnxruntime: 5"):
            exported(built, tmp_path / str(rows), plan=holes, rows=ROWS.select(range(rows)))
    excused = holes.model_copy(update={"excluded": dict.fromkeys(lost, "exclude: *.layer.1.*")})
    assert exported(built, tmp_path / "second", plan=excused)["macs"]["int8"] > 0


def test_what_is_the_same_for_all_rows_is_not_asked_to_run_in_int8(tmp_path: Path) -> None:
    """DeBERTa projects its table of distances, which runtimes compute once."""
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    encoder = tiny.encoder(ROWS, inputs=("input_ids", "attention_mask"))
    config = DebertaV2Config(
        vocab_size=encoder.vocab_size, hidden_size=16, num_attention_heads=2, intermediate_size=32, num_hidden_layers=2,
        max_position_embeddings=40, relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=32,
        share_att_key=True, num_labels=2, type_vocab_size=0,
    )  # fmt: skip
    torch.manual_seed(0)
    deberta = Built(tiny.lively(DebertaV2ForSequenceClassification(config).eval()), encoder, new_head=False)
    plan = Int8(name="int8").apply(deberta.model, PrecisionPlan()).plan
    seen = exported(deberta, tmp_path, plan=plan)
    assert seen["macs"]["int8"] == seen["macs"]["eligible"] > 0


def test_one_picture_tells_what_should_run_in_integers(tmp_path: Path) -> None:
    pictures, task = tiny.pictures(12), tiny.task("image-classification")
    built = tiny.built_net(pictures, "cnn")
    rows = Calibration(task, built.encoder, pictures, pictures, "accuracy")
    plan = PASSES["int8_static"](name="int8_static", reduce_range=False).apply(built.model, PrecisionPlan(), rows).plan
    runtime = RUNTIMES["onnxruntime"](name="onnxruntime")
    macs = export_verified(built, plan, runtime, task, pictures.select([0]), tmp_path)["macs"]
    assert macs["eligible"] == macs["int8"] > 0


def test_one_validation_row_is_enough(built: Built, tmp_path: Path) -> None:
    one = ROWS.select([7])
    seen = export_verified(
        built, PrecisionPlan(), RUNTIMES["onnxruntime"](name="onnxruntime"), tiny.task(), one, tmp_path
    )
    assert seen["fidelity"]["rows"] == 1


def test_rows_of_one_token_length_may_still_be_of_any_length(built: Built, tmp_path: Path) -> None:
    rows = Examples({"text": ["good film", "bad film"] * 4, "label": np.arange(8) % 2}, tiny.LABELS)
    runtime = RUNTIMES["onnxruntime"](name="onnxruntime")
    export_verified(built, PrecisionPlan(), runtime, tiny.task(), rows, tmp_path)
    session = tiny.Artifact.open(tmp_path).session()
    assert session.predict(ROWS)["logits"].shape == (40, 2)
