"""What a stage will take, before it is computed: minutes and peak memory, meant to be right within a factor of three.

Arithmetic is counted by running the model once without data (torch's `meta` device) and divided by what this machine
reaches on a short matrix product; the rest are constants seen on ordinary CPUs. Nothing is loaded, nothing is written.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from kdc.compress.base import ALL_ROWS, Pass
from kdc.compress.calibration import BATCH
from kdc.data.lengths import mean_tokens
from kdc.measure.calls import FEWEST_CALLS, window_calls
from kdc.measure.settings import BenchConfig
from kdc.models.settings import draw_model, model_settings
from kdc.models.spec import ModelConfig
from kdc.stages import Data, Step
from kdc.store import Published

if TYPE_CHECKING:
    from kdc.walk import Variant

EFFICIENCY = 0.5
"""Share of the matrix product's speed that a whole network keeps."""
INT8_GAIN = 2.5
BACKWARD = 2
"""Arithmetic of a backward pass, in forward passes."""
STEP_SECONDS_PER_LAYER = 0.5e-3
"""What a training step costs for every layer with weights, however small it is."""
START_SECONDS = 1.5
EXPORT_SECONDS = {"onnxruntime": 4.0, "openvino": 5.0, "inductor": 40.0}
EXPORT_BYTES_PER_SECOND = 40e6
LOAD_SECONDS = {"torch": 5.0, "onnxruntime": 1.0, "openvino": 1.5, "inductor": 5.0}
PROCESS_BYTES = 1e9
WORKER_BYTES = 2e8
ADAM_BYTES = 16
"""A parameter in training: weight, gradient and two moments, four bytes each."""
EXPORT_COPIES = 5
CALIBRATION_SECONDS = 0.2


@dataclass(frozen=True)
class Cost:
    """Seconds of work and the largest memory of one process."""

    seconds: float
    peak_bytes: float


@dataclass(frozen=True)
class Shape:
    """A model as far as its cost goes. `flops` of a forward pass and `saved_bytes` for the backward are a row's."""

    settings: Any
    parameters: int
    layers: int
    flops: float
    saved_bytes: float


@dataclass
class Estimator:
    """Estimates the steps of one run in their order: a step's models are those whose keys it holds."""

    data: Data
    shapes: dict[str, Shape] = field(default_factory=dict)
    """By the key of the stage that holds the model, or an artifact of it."""

    def step(self, step: Step, published: Published) -> Cost:
        """What building this step would take."""
        parts = step.parts
        if step.name == "transfer":
            return Cost(START_SECONDS, PROCESS_BYTES)
        if step.model is not None:
            shape = model_shape(step.model, self.data, self.shapes.get(parts.get("origin", "")))
            cost = Cost(START_SECONDS, _idle(shape))
            if "training" in parts:
                cost = self._training(shape, parts["training"])
        elif step.name == "recovery":
            shape = self.shapes[parts["start"]]
            cost = self._training(shape, parts["training"])
        elif step.name == "signals":
            shape = self.shapes[parts["teacher"]]
            cost = self._forward(shape, len(self.data.splits["train"]))
        elif step.name == "export":
            shape = self.shapes[parts["model"]]
            cost = _export(shape, parts["runtime"].name)
        elif step.name == "predictions":
            shape = self.shapes[parts["artifact"]]
            cost = self._forward(shape, len(self.data.splits["test"]))
        elif step.name == "compress":
            shape = self.shapes[parts["model"]]
            cost = self._compression(shape, parts["pass"])
        else:
            shape = self.shapes[parts["model"]]
            cost = Cost(START_SECONDS, _idle(shape))
        self.shapes[published.key] = shape
        return cost

    def latency(self, variants: Sequence[Variant], bench: BenchConfig) -> Cost:
        """Timing all variants: it is never cached."""
        tokens = _tokens(self.data)
        seconds = 0.0
        for variant in variants:
            shape = self.shapes[variant.artifact.key]
            call = shape.flops / _speed("fp32", shape) / (INT8_GAIN if variant.point.precision.startswith("int") else 1)
            lengths = bench.lengths if tokens else [1]
            calls = [batch * length / (tokens or 1) * call for batch in bench.batches for length in lengths]
            grid = sum(_warm_up(one) + max(min(bench.seconds, bench.calls * one), FEWEST_CALLS * one) for one in calls)
            rows = _warm_up(call) + bench.rows * call if bench.rows else 0.0
            seconds += bench.rounds * (LOAD_SECONDS.get(variant.runtime.name, 1.0) + grid + rows)
        largest = max(self.shapes[variant.artifact.key].parameters for variant in variants)
        return Cost(seconds, WORKER_BYTES + 8 * largest)

    def _training(self, shape: Shape, training: Mapping[str, Any]) -> Cost:
        settings = training["settings"]
        rows, validation = (len(self.data.splits[split]) for split in ("train", "validation"))
        batches = -(-rows // settings["batch_size"])
        arithmetic = rows * shape.flops * (1 + BACKWARD) / _speed(training["precision"], shape)
        epoch = arithmetic + batches * shape.layers * STEP_SECONDS_PER_LAYER
        epoch += settings["evaluations"] * self._forward(shape, validation).seconds
        peak = PROCESS_BYTES + ADAM_BYTES * shape.parameters + settings["batch_size"] * shape.saved_bytes
        return Cost(START_SECONDS + settings["epochs"] * epoch, peak)

    def _compression(self, shape: Shape, chosen: Pass) -> Cost:
        """The rows that the pass sees, forward and backward; for the sensitivity of every layer once more each."""
        train, validation = (len(self.data.splits[split]) for split in ("train", "validation"))
        rows = 0 if chosen.rows_to_see == ALL_ROWS else min(chosen.rows_to_see, train)
        times = shape.layers if chosen.edits_plan else 1 + BACKWARD
        work = self._forward(shape, rows * times + (2 * validation if chosen.judges else 0))
        return Cost(START_SECONDS + work.seconds, work.peak_bytes + min(rows, BATCH) * shape.saved_bytes)

    def _forward(self, shape: Shape, rows: int) -> Cost:
        return Cost(rows * shape.flops / _speed("fp32", shape), _idle(shape))


def model_shape(config: ModelConfig, data: Data, teacher: Shape | None = None) -> Shape:
    """Count the model that `config` describes on rows of mean length, on torch's device without data."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    rows = 2
    settings = model_settings(config, data.needs, teacher.settings if teacher else None)
    with torch.device("meta"):
        model = draw_model(settings, data.task, "teacher" if teacher is None else "student").train()
        if tokens := _tokens(data):
            inputs = torch.zeros(rows, round(tokens), dtype=torch.long)
        else:
            inputs = torch.zeros(rows, settings.num_channels, settings.image_size, settings.image_size)
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    saved: dict[int, Any] = {}

    def save(tensor: Any) -> Any:
        if (storage := tensor.untyped_storage())._cdata not in weights:
            saved[storage._cdata] = storage
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor)
    with FlopCounterMode(display=False) as counter, hooks:
        model(inputs)
    return Shape(
        settings,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=sum(1 for module in model.modules() if next(module.parameters(recurse=False), None) is not None),
        flops=counter.get_total_flops() / rows,
        saved_bytes=sum(storage.nbytes() for storage in saved.values()) / rows,
    )


def _tokens(data: Data) -> float | None:
    """The mean length of a row in tokens; None where rows have no length."""
    return mean_tokens(data.splits["train"], data.max_length) if data.task.modality == "text" else None


def _export(shape: Shape, runtime: str) -> Cost:
    seconds = EXPORT_SECONDS.get(runtime, 1.0) + 4 * shape.parameters / EXPORT_BYTES_PER_SECOND
    return Cost(seconds, PROCESS_BYTES + EXPORT_COPIES * 4 * shape.parameters)


def _warm_up(call: float) -> float:
    """Seconds until calls of `call` seconds are steady, where nothing disturbs them."""
    return 2 * window_calls(1000 * call) * call


def _idle(shape: Shape) -> float:
    return PROCESS_BYTES + 4 * shape.parameters


def _speed(precision: str, shape: Shape) -> float:
    """Operations a second that a network of this width can hope for here."""
    return EFFICIENCY * _matmul_speed(precision, getattr(shape.settings, "hidden_size", None) or 256)


@cache
def _matmul_speed(precision: str, width: int) -> float:
    """Operations a second of the product that dominates an encoder: `[rows, width] x [width, 4 width]`."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left = torch.randn(1024, width, device=device).to(dtype)
    right = torch.randn(width, 4 * width, device=device).to(dtype)
    (left @ right).sum().item()
    calls, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < CALIBRATION_SECONDS:
        (left @ right)[0, 0].item()  # waits for the device
        calls += 1
    return calls * 2 * left.numel() * right.shape[1] / seconds
