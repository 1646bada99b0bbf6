"""Signatures, graphs and runtimes: how a module becomes files, and the files something to call. No task in sight."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from kdc.compress.plan import PrecisionPlan
from kdc.registry import Component, Registry

if TYPE_CHECKING:
    from torch import nn

Arrays = dict[str, np.ndarray]
Callables = Mapping[str, Callable[[Arrays], Arrays]]
"""One callable a signature, by its name: named arrays in, named arrays out."""


@dataclass(frozen=True)
class Port:
    """One input or output: a dynamic axis has a name (`batch`, `length`), a fixed one its size.

    `below` is the size of the vocabulary that integers are drawn from, where the graph alone tells it.
    """

    name: str
    dtype: str
    axes: tuple[str | int, ...]
    below: int | None = None


@dataclass(frozen=True)
class Signature:
    """One graph of a task. A classifier has one (`forward`), a decoder with a cache two (`prefill`, `step`).

    Names are unique over inputs and outputs, as in ONNX: a cache goes in as `past_keys` and comes out as `keys`.
    `limits` holds the largest size of a dynamic axis where there is one (`{"length": 512}`), `fixed` the only size that
    a named axis has in files that were exported without dynamic axes (`{"batch": 1}`).
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    limits: Mapping[str, int] = field(default_factory=dict)
    fixed: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [port.name for port in (*self.inputs, *self.outputs)]
        if len(set(names)) < len(names):
            raise ValueError(f"signature {self.name}: inputs and outputs share a name: {names}")


@dataclass(frozen=True)
class Graph:
    """A signature with the module that computes it: `module(*inputs)` -> tuple of outputs, both in its order.

    `sample` are inputs for tracing; every dynamic axis in them is at least 2, because a tracer takes 1 for a constant.
    `prefix` is where the user's model sits inside `module` (`model.`), so that a plan's module names can be found.
    """

    signature: Signature
    module: nn.Module
    sample: Arrays
    prefix: str = ""


@dataclass(frozen=True, kw_only=True)
class Executed:
    """What a runtime really ran on one workload: multiply-accumulates of matrix multiplies and convolutions, in all and
    in integers, and how many kernels the operators of its files became; no kernels where it does not tell them."""

    macs: int
    int8: int = 0
    operators: int = 0
    kernels: int = 0
    fused: Mapping[str, int] = field(default_factory=dict)
    """Of the kernels those that stand for several operators, by kind."""


class Runtime(Component):
    """Executes artifacts. `precisions` are the cells that exist; a missing one is refused, never substituted."""

    precisions: ClassVar[frozenset[str]]
    packages: ClassVar[tuple[str, ...]]
    name: str

    @property
    def processor(self) -> Literal["cpu", "cuda"]:
        """What computes: its clock and its memory tell what a call costs."""
        return "cpu"

    def unusable(self) -> str | None:
        """Why this machine cannot run it as configured; None where it can."""
        return None

    def machine(self) -> dict[str, Any]:
        """What of this machine is in the files that `lower` writes: nothing, where they run on any."""
        return {}

    @abstractmethod
    def lower(self, graphs: Sequence[Graph], plan: PrecisionPlan, folder: Path) -> None:
        """Write the files that run these graphs at this plan's precision into `folder` (which exists)."""

    @abstractmethod
    def load(self, folder: Path, signatures: Sequence[Signature], *, threads: int | None = None) -> Callables:
        """What was lowered, ready to call. Imports only what serving needs."""

    @abstractmethod
    def executed(self, folder: Path, signatures: Sequence[Signature], feeds: Mapping[str, Arrays]) -> Executed:
        """What one call of each graph on `feeds` (by signature name) comes to, in the graph that runs."""


RUNTIMES: Registry[Runtime] = Registry(
    "runtime", [f"kdc.export.{name}" for name in ("torch_eager", "onnxruntime", "openvino", "inductor")]
)
