"""Quantizers: what they plan, that a simulation computes what the file does, and the passes that edit a plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from kdc.compress.accuracy_control import AccuracyControl
from kdc.compress.base import PASSES, Pass
from kdc.compress.calibration import Calibration
from kdc.compress.fold_batch_norm import FoldBatchNorm
from kdc.compress.mixed_precision import MixedPrecision
from kdc.compress.plan import ModulePrecision, PrecisionPlan, with_zero
from kdc.compress.sensitivity import sensitivities
from kdc.compress.simulate import simulated, weight_errors
from kdc.compress.smoothing import smoothed, smoothing_factors
from kdc.compress.wiring import rectified
from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.models.build import Built
from kdc.models.rewrites import rewritten
from tests import tiny
from tests.compress import models

TEXTS, PICTURES = tiny.sentences(40), tiny.pictures(24)
QUERY = "bert.encoder.layer.0.attention.self.query"


def texts() -> tuple[Built, Calibration]:
    built = tiny.built_bert(TEXTS)
    return built, Calibration(tiny.task(), built.encoder, TEXTS, TEXTS, "accuracy")


def pictures() -> tuple[Built, Calibration]:
    built = tiny.built_net(PICTURES, "cnn")
    task = tiny.task("image-classification")
    for module in built.model.modules():  # as if it had been trained
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return built, Calibration(task, built.encoder, PICTURES, PICTURES, "accuracy")


def quantizer(name: str, **settings: Any) -> Pass:
    if name in ("int8", "int8_static"):
        settings.setdefault("reduce_range", False)
    return PASSES[name].model_validate({"name": name, **settings})


def planned(built: Built, rows: Calibration, name: str, **settings: Any) -> PrecisionPlan:
    return quantizer(name, **settings).apply(built.model, PrecisionPlan(), rows).plan


def outputs_of_file(folder: Path, built: Built, rows: Examples, plan: PrecisionPlan, runtime: str) -> np.ndarray:
    with rewritten(built.model, plan.rewrites):
        artifact = tiny.artifact(folder, built, rows, runtime=runtime, plan=plan)
    return artifact.session().predict(rows)["logits"]


@pytest.mark.slow
@pytest.mark.parametrize("make", [texts, pictures])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("int8", {}),
        ("int8", {"smooth": 0.5, "per_channel": False}),
        ("int8_static", {"smooth": 0.5}),
        ("int8_static", {"reduce_range": True}),
        ("int8_weights", {}),
        ("int4_weights", {}),
        ("cluster", {"bits": 4}),
    ],
)
def test_a_simulation_computes_what_the_file_does(
    make: Any, name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    built, rows = make()
    plan = planned(built, rows, name, **settings)
    exact = rows.outputs(built.model)["logits"]
    with simulated(built.model, plan):
        ours = rows.outputs(built.model)["logits"]
    assert np.array_equal(rows.outputs(built.model)["logits"], exact), "nothing of it stays"
    theirs = outputs_of_file(tmp_path, built, rows.rows, plan, "onnxruntime")
    lost = np.abs(theirs - exact).mean()
    assert lost > 1e-4 * exact.std()
    assert np.abs(theirs - ours).mean() < 0.05 * lost, "rounding that falls the other way now and then is all"


@pytest.mark.slow
@pytest.mark.parametrize("make", [texts, pictures])
def test_openvino_computes_static_int8(make: Any, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    built, rows = make()
    plan = planned(built, rows, "int8_static")
    with simulated(built.model, plan):
        ours = rows.outputs(built.model)["logits"]
    theirs = outputs_of_file(tmp_path, built, rows.rows, plan, "openvino")
    exact = rows.outputs(built.model)["logits"]
    assert np.abs(theirs - ours).mean() < 0.5 * np.abs(ours - exact).mean()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bits"), [("int8_weights", 8), ("int4_weights", 4)])
def test_weights_in_blocks_take_as_many_bits(name: str, bits: int, tmp_path: Path) -> None:
    built, rows = texts()
    outputs_of_file(tmp_path, built, TEXTS, planned(built, rows, name, group=16), "onnxruntime")
    model = onnx.load(tmp_path / "forward.onnx")
    packed = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    assert len(packed) == 14
    held = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    assert sorted(held[node.input[1]].size * 8 // bits for node in packed) == sorted(
        [32 * 32] * 9 + [32 * 64] * 4 + [32 * 2]
    )
    assert all(
        node.input[2] and held[node.input[2]].size * 16 == held[node.input[1]].size * 8 // bits for node in packed
    )


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
def test_shared_values_are_kept_once(bits: int, tmp_path: Path) -> None:
    built, rows = texts()
    plan = planned(built, rows, "cluster", bits=bits)
    files = {}
    for name, chosen in {"plain": PrecisionPlan(), "shared": plan}.items():
        outputs_of_file(tmp_path / name, built, TEXTS, chosen, "onnxruntime")
        files[name] = onnx.load(tmp_path / name / "forward.onnx")
    weights = sum(m.weight.numel() for m in built.model.modules() if isinstance(m, torch.nn.Linear))
    numbers = [t for t in files["shared"].graph.initializer if t.name.endswith("_numbers")]
    assert sum(len(t.raw_data) for t in numbers) == weights * bits // 8
    assert 2 ** (bits - 1) < len(plan.modules[QUERY].codebook or ()) <= 2**bits
    floats = [t for t in files["shared"].graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert max(np.prod(t.dims) for t in floats) <= 256


def test_static_ranges_follow_the_method() -> None:
    built, rows = texts()
    found = {
        method: planned(built, rows, "int8_static", method=method, percentile=90).modules[QUERY].reads
        for method in ("minmax", "percentile", "entropy")
    }
    every = torch.cat([seen[QUERY][0] for seen in rows.seen_by(built.model, [QUERY])])
    assert found["minmax"] == (float(every.min()), float(every.max()))
    assert found["minmax"][0] < found["percentile"][0] < 0 < found["percentile"][1] < found["minmax"][1]
    assert found["entropy"] not in (found["percentile"], None)
    wider = planned(built, rows, "int8_static", percentile=99.0).modules[QUERY].reads
    assert wider is not None
    assert wider[1] > found["percentile"][1]


def test_static_ranges_are_those_of_real_tokens_and_of_so_many_rows() -> None:
    built, rows = texts()
    few = replace(rows, rows=TEXTS.select(range(2)))
    assert quantizer("int8_static", calibration_rows=2).rows_to_see == 2
    last = "bert.encoder.layer.1.output.dense"
    every, some = (planned(built, seen, "int8_static", method="minmax").modules[last].reads for seen in (rows, few))
    assert every != some


def test_smoothing_is_the_papers_formula_and_changes_no_answer() -> None:
    built, rows = texts()
    layer = "bert.encoder.layer.0"
    names = [f"{layer}.attention.self.{part}" for part in ("query", "key", "value")] + [f"{layer}.output.dense"]
    found = smoothing_factors(built.model, names, rows, 0.3)
    inputs: dict[str, np.ndarray] = {}
    for batch in rows.inputs_of(built.model, names):
        for name, states in batch.items():
            inputs[name] = np.maximum(inputs.get(name, 0), np.abs(states.numpy()).max(axis=0))
    weights = {name: np.abs(built.model.get_parameter(f"{name}.weight").detach().numpy()).max(axis=0) for name in names}
    together = np.max([weights[name] for name in names[:3]], axis=0)
    for name in names:
        wanted = inputs[name] ** 0.3 / (together if name != names[3] else weights[name]) ** 0.7
        np.testing.assert_allclose(found[name], wanted, rtol=1e-4)
    before = rows.outputs(built.model)["logits"]
    with smoothed(built.model, found):
        np.testing.assert_allclose(rows.outputs(built.model)["logits"], before, atol=1e-4)
    assert np.array_equal(rows.outputs(built.model)["logits"], before)


def test_smoothing_helps_where_channels_differ() -> None:
    """A channel a hundred times the others leaves them few steps; its weights are small, so nothing is lost in them."""
    built, rows = texts()
    norm = built.model.get_submodule("bert.encoder.layer.0.attention.output.LayerNorm")
    linear = built.model.get_submodule("bert.encoder.layer.0.intermediate.dense")
    with torch.no_grad():
        norm.weight[3] *= 100
        linear.weight[:, 3] /= 100
    exact = rows.outputs(built.model)["logits"]
    lost = {}
    for alpha in (None, 0.5):
        plan = planned(built, rows, "int8", embeddings=False, smooth=alpha, include=["*.intermediate.dense"])
        with simulated(built.model, plan):
            lost[alpha] = float(np.abs(rows.outputs(built.model)["logits"] - exact).mean())
    assert lost[0.5] < 0.5 * lost[None]
    assert quantizer("int8", smooth=0.5, calibration_rows=9).rows_to_see == 9
    assert quantizer("int8").rows_to_see == 0


def test_convolutions_are_for_static_int8_alone() -> None:
    built, rows = pictures()
    assert "layers.0" not in planned(built, rows, "int8").modules
    plan = planned(built, rows, "int8_static")
    assert plan.modules["layers.0"].puts_out is not None
    assert plan.rewrites == ("fold_batch_norm",)
    assert all(
        p.puts_out is None for name, p in plan.modules.items() if "Linear" in str(built.model.get_submodule(name))
    )


def off_by(weight: np.ndarray, steps: np.ndarray) -> str:
    """How far from `weight` it is in whole `steps`."""
    moved = np.round(weight / steps) * steps - weight
    return f"weights off by {np.linalg.norm(moved) / np.linalg.norm(weight):.2%}"


def test_every_layer_says_what_it_becomes_and_how_far_its_weights_are_off() -> None:
    built, rows = texts()
    lines = quantizer("int8", smooth=0.5).apply(built.model, PrecisionPlan(), rows).lines
    names = [line.split(":")[0] for line in lines]
    plan = planned(built, rows, "int8", smooth=0.5)
    assert sorted(names) == sorted(plan.modules)
    factors = plan.modules[QUERY].smooth
    assert factors is not None
    weight = built.model.get_submodule(QUERY).weight.detach().double().numpy() * np.array(factors)
    error = off_by(weight, np.abs(weight).max(axis=1, keepdims=True) / 127)
    assert f"{QUERY}: int8 per channel, smoothed, {error}" in lines
    table = "bert.embeddings.word_embeddings"
    weight = built.model.get_submodule(table).weight.detach().double().numpy()
    assert f"{table}: stored in int8, {off_by(weight, np.ptp(weight) / 255)}" in lines


def test_layers_say_ranges_groups_values_and_seven_bits() -> None:
    built, rows = texts()
    plan = planned(built, rows, "int8_static", reduce_range=True)
    low, high = with_zero(plan.modules[QUERY].reads or (0, 0))
    assert str(plan.modules[QUERY]) == f"7 bits of int8 per channel, reads {low:.3g} to {high:.3g}"
    assert str(planned(built, rows, "int4_weights", group=64).modules[QUERY]) == "int4 in groups of 64"
    assert str(planned(built, rows, "cluster", bits=4).modules[QUERY]) == "16 values"


def test_a_convolutions_weights_are_off_as_they_are_stored() -> None:
    """Its batch-norm's factor is in them, which one scale for all channels notices."""
    built, rows = pictures()
    lines = quantizer("int8_static", per_channel=False).apply(built.model, PrecisionPlan(), rows).lines
    convolution, norm = (built.model.get_submodule(f"layers.{number}") for number in (0, 1))
    stored: Any = torch.nn.utils.fusion.fuse_conv_bn_eval(convolution.eval(), norm.eval()).weight
    weight = stored.detach().double().numpy()
    (line,) = [line for line in lines if line.startswith("layers.0:")]
    assert line.endswith(off_by(weight, np.abs(weight).max() / 127))


def test_weights_of_other_kinds_are_off_by_what_their_rounding_moves() -> None:
    """Conv1D with its weight the other way round, a channel that a batch-norm drops, both matrices of an LSTM."""
    gpt2 = models.texts("gpt2").model
    name = "transformer.h.0.mlp.c_fc"
    weight = gpt2.get_submodule(name).weight.detach().double().numpy().T
    precision = ModulePrecision(dtype="int8", per_channel=True)
    (found,) = weight_errors(gpt2, PrecisionPlan(modules={name: precision})).values()
    assert f"weights off by {found:.2%}" == off_by(weight, np.abs(weight).max(axis=1, keepdims=True) / 127)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4))
    with torch.no_grad():
        net[0].weight[1] *= 1000
        net[1].weight[1] = 0
    plan = PrecisionPlan(modules={"0": ModulePrecision(dtype="int8")}, rewrites=("fold_batch_norm",))
    assert 0 < weight_errors(net, plan)["0"] < 0.02
    lstm = torch.nn.LSTM(3, 5, bidirectional=True)
    matrices = [p.detach().double().numpy() for p in lstm.parameters() if p.ndim == 2]
    moved = [np.round(m / (s := np.abs(m).max() / 127)) * s - m for m in matrices]
    wanted = (sum((m**2).sum() for m in moved) / sum((m**2).sum() for m in matrices)) ** 0.5
    plan = PrecisionPlan(modules={"0": ModulePrecision(dtype="int8")})
    assert weight_errors(torch.nn.Sequential(lstm), plan)["0"] == pytest.approx(wanted, rel=1e-4)


def test_what_no_row_reaches_stays_in_float_and_is_told() -> None:
    built, rows = texts()
    built.model.bert.unused = torch.nn.Linear(4, 4)
    plan = planned(built, rows, "int8_static")
    assert "bert.unused" not in plan.modules
    assert plan.excluded["bert.unused"] == "no row that was looked at reaches it"


def test_layers_that_recover_say_that_it_is_before() -> None:
    built, rows = texts()
    lines = quantizer("int8", recover={"epochs": 1}).apply(built.model, PrecisionPlan(), rows).lines
    assert all(line.endswith("% before they recover") for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_folded_batch_norms_leave_the_answers(runtime: str, tmp_path: Path) -> None:
    built, rows = pictures()
    before = {name: tensor.clone() for name, tensor in built.model.state_dict().items()}
    done = FoldBatchNorm(name="fold_batch_norm").apply(built.model, PrecisionPlan())
    assert done.lines == ["layers.0: does the work of layers.1", "layers.4: does the work of layers.5"]
    said = outputs_of_file(tmp_path, built, PICTURES, done.plan, runtime)
    np.testing.assert_allclose(said, rows.outputs(built.model)["logits"], atol=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in built.model.state_dict().items())
    if runtime == "torch":
        program = torch.export.load(tmp_path / "forward.pt2")
        assert not any("batch_norm" in str(node.target) for node in program.graph.nodes)


def test_a_model_without_batch_norms_is_refused() -> None:
    with pytest.raises(KdcError, match="no convolution of the model has a batch-norm"):
        FoldBatchNorm(name="fold_batch_norm").apply(tiny.built_net(PICTURES, "mlp").model, PrecisionPlan())


def with_a_sensitive_layer() -> tuple[Built, Calibration, str]:
    """A layer whose answers hang on small weights beside a few huge ones, which one scale for all rounds away."""
    built, rows = texts()
    planted = "bert.encoder.layer.1.output.dense"
    weight = built.model.get_submodule(planted).weight
    with torch.no_grad():
        weight[:, 0] = 60.0
        built.model.get_submodule("bert.encoder.layer.1.intermediate.dense").weight[0] = 0
        built.model.get_submodule("bert.encoder.layer.1.intermediate.dense").bias[0] = -9.0  # GELU: nothing
    answers = rows.outputs(built.model)["logits"].argmax(axis=1)
    own = Examples({**{name: TEXTS[name] for name in TEXTS.inputs}, "label": answers}, TEXTS.labels)
    return built, replace(rows, rows=own, validation=own), planted


def test_accuracy_control_reverts_the_planted_layer_and_says_so() -> None:
    built, rows, planted = with_a_sensitive_layer()
    plan = planned(built, rows, "int8", embeddings=False, per_channel=False)
    assert next(iter(sensitivities(built.model, plan, rows))) == (planted,)
    done = AccuracyControl(name="accuracy_control", max_drop=0.05).apply(built.model, plan, rows)
    assert set(plan.modules) - set(done.plan.modules) == {planted}
    assert done.plan.excluded[planted] == "accuracy_control: cost more than 0.05 of accuracy"
    assert done.lines[0].startswith("accuracy in float 1.0000, as planned 0.")
    assert done.lines[1].startswith(f"{planted}: back in float, accuracy ")
    lenient = AccuracyControl(name="accuracy_control", max_drop=0.9).apply(built.model, plan, rows)
    assert lenient.plan == plan


def test_accuracy_control_looks_at_so_many_rows() -> None:
    step = AccuracyControl(name="accuracy_control", calibration_rows=7)
    assert (step.rows_to_see, step.judges) == (7, True)


def test_accuracy_control_that_leaves_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    built, rows = texts()
    plan = planned(built, rows, "int8", embeddings=False)
    scores = iter([1.0, *[0.0] * len(plan.modules)])
    monkeypatch.setattr(Calibration, "score", lambda self, model: next(scores, 1.0))
    with pytest.raises(KdcError, match="however few are rounded"):
        AccuracyControl(name="accuracy_control", max_drop=0.05).apply(built.model, plan, rows)


def test_mixed_precision_takes_the_most_sensitive_up_to_the_ratio() -> None:
    built, rows, planted = with_a_sensitive_layer()
    plan = planned(built, rows, "int8", embeddings=False, per_channel=False)
    sizes = {name: sum(p.numel() for p in built.model.get_submodule(name).parameters()) for name in plan.modules}
    for ratio in (0.2, 0.5):
        done = MixedPrecision(name="mixed_precision", ratio=ratio).apply(built.model, plan, rows)
        gone = set(plan.modules) - set(done.plan.modules)
        assert planted in gone
        assert 0 < sum(sizes[name] for name in gone) <= ratio * sum(sizes.values())
        assert set(done.plan.excluded) == gone
        assert len(done.lines) == len(gone)
    assert MixedPrecision(name="mixed_precision", calibration_rows=9).rows_to_see == 9


def test_mixed_precision_goes_from_four_bits_to_eight() -> None:
    built, rows = texts()
    plan = planned(built, rows, "int4_weights", embeddings=False)
    done = MixedPrecision(name="mixed_precision", ratio=0.3).apply(built.model, plan, rows)
    finer = {name for name, precision in done.plan.modules.items() if precision.dtype == "int8"}
    assert finer
    assert set(done.plan.modules) == set(plan.modules)
    assert done.plan.modules[min(finer)].group == 32
    assert done.plan.precision == "int4_weights"


def shared() -> tuple[Built, Calibration]:
    built, rows = texts()
    PASSES["share"](name="share", every=2, start="first").apply(built.model, PrecisionPlan())
    return built, rows


def test_layers_that_share_weights_are_planned_alike_or_refused() -> None:
    built, rows = shared()
    plan = planned(built, rows, "int8_static", smooth=0.5)
    twins = [f"bert.encoder.layer.{number}.output.dense" for number in (0, 1)]
    assert plan.modules[twins[0]] == plan.modules[twins[1]]
    weight = built.model.get_parameter(f"{twins[0]}.weight").clone()
    again = planned(built, rows, "int8_static", smooth=0.5)
    assert again == plan
    assert torch.equal(built.model.get_parameter(f"{twins[0]}.weight"), weight)
    exact = rows.outputs(built.model)["logits"]
    with simulated(built.model, plan):
        assert np.abs(rows.outputs(built.model)["logits"] - exact).mean() < 0.2 * exact.std()
    with pytest.raises(KdcError, match=r"share their weights, so both are left out or none; name both"):
        planned(built, rows, "int8", exclude=["*.layer.1.*"])
    done = MixedPrecision(name="mixed_precision", ratio=0.5).apply(built.model, plan, rows)
    gone = set(plan.modules) - set(done.plan.modules)
    assert gone
    assert all(name.replace("layer.0", "layer.1") in gone for name in gone if "layer.0" in name)


def test_what_is_shared_values_goes_to_float_and_zeros_stay() -> None:
    built, rows = texts()
    with torch.no_grad():
        weight = built.model.get_parameter(f"{QUERY}.weight")
        weight[weight.abs() < 0.2] = 0
    plan = planned(built, rows, "cluster", bits=4)
    assert 0.0 in (plan.modules[QUERY].codebook or ())
    assert len(plan.modules[QUERY].codebook or ()) <= 16
    done = MixedPrecision(name="mixed_precision", ratio=0.5).apply(built.model, plan, rows)
    assert set(done.plan.excluded) == set(plan.modules) - set(done.plan.modules) != set()
    with torch.no_grad():
        weight.zero_()
    assert planned(built, rows, "cluster", bits=4).modules[QUERY].codebook == (0.0,)


def test_outputs_are_rectified_where_a_relu_alone_reads_them() -> None:
    class Block(torch.nn.Module):
        """As residual nets are written: the shortcut is added between the norm and the ReLU of one parent."""

        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = (torch.nn.Conv2d(1, 1, 3, padding=1) for _ in range(2))
            self.bn2, self.relu = torch.nn.BatchNorm2d(1), torch.nn.ReLU()
            self.config = None

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            first = self.relu(self.conv1(pixel_values))
            return self.relu(self.bn2(self.conv2(first)) + first)

    _, rows = pictures()
    assert rectified(Block(), ["conv1", "conv2"], rows) == {"conv1"}
    built, rows = pictures()
    with rewritten(built.model, ("fold_batch_norm",)):
        assert rectified(built.model, ["layers.0", "layers.4"], rows) == {"layers.0", "layers.4"}


def test_what_is_added_to_in_place_is_not_what_was_put_out() -> None:
    """As `transformers` writes residual nets: with its norm folded away, a branch is the tensor that the ReLU reads."""

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.config = torch.nn.Conv2d(1, 1, 1, bias=False), torch.nn.ReLU(), None
            torch.nn.init.constant_(self.conv.weight, -1.0)

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            branch = self.conv(pixel_values)
            branch += 5
            made: torch.Tensor = self.relu(branch)
            return made

    _, rows = pictures()
    assert rectified(Block(), ["conv"], rows) == set()
    seen = next(rows.seen_by(Block(), ["conv"]))["conv"]
    torch.testing.assert_close(seen[1], -seen[0])
    built = models.pictures("resnet")
    last = [name for name, _ in built.model.named_modules() if name.endswith("layer.1.convolution")]
    first = [name.replace("layer.1.", "layer.0.") for name in last]
    rows = Calibration(tiny.task("image-classification"), built.encoder, models.PICTURES, models.PICTURES, "accuracy")
    with rewritten(built.model, ("fold_batch_norm",)):
        assert rectified(built.model, [*first, *last], rows) == set(first)


def test_a_channel_that_its_norm_turns_off_can_be_trained_in_integers() -> None:
    built, rows = pictures()
    with torch.no_grad():
        built.model.get_submodule("layers.1").weight[0] = 0
    with simulated(built.model, planned(built, rows, "int8_static")):
        assert np.isfinite(rows.outputs(built.model)["logits"]).all()
        model = built.model.train()
        model(pixel_values=torch.rand(4, 1, 8, 8)).logits.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_a_bias_far_larger_than_its_weights_is_kept(*, per_channel: bool, runtime: str, tmp_path: Path) -> None:
    """A bias is stored in steps of its weights' size, of which 32 bits hold so many."""
    built, rows = pictures()
    with torch.no_grad():
        norm, last = built.model.get_submodule("layers.1"), built.model.get_submodule("layers.12")
        norm.weight[0], norm.bias[0] = 0, 1
        last.weight[1] *= 1e-9
        last.bias[1] = 5
    plan = planned(built, rows, "int8_static", per_channel=per_channel, method="minmax")
    said = outputs_of_file(tmp_path, built, PICTURES, plan, runtime)
    with rewritten(built.model, plan.rewrites), simulated(built.model, plan):
        wanted = rows.outputs(built.model)["logits"]
    np.testing.assert_allclose(said, wanted, atol=0.05)
    np.testing.assert_allclose(said[:, 1], 5, rtol=1e-3)


def test_a_module_that_puts_out_nothing_has_a_range() -> None:
    built, rows = texts()
    with torch.no_grad():
        for part in ("weight", "bias"):
            built.model.get_parameter(f"bert.encoder.layer.0.attention.self.value.{part}").zero_()
    for method in ("minmax", "percentile", "entropy"):
        plan = planned(built, rows, "int8_static", method=method)
        assert plan.modules["bert.encoder.layer.0.attention.output.dense"].reads == (0.0, 0.0)


def test_what_a_second_quantizer_takes_is_excluded_no_more() -> None:
    built, rows = texts()
    first = planned(built, rows, "int8", include=["classifier"])
    assert QUERY in first.excluded
    second = quantizer("int8", exclude=["classifier"]).apply(built.model, first, rows).plan
    assert not set(second.excluded) & set(second.modules)
