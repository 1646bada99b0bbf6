"""Artifacts: the folder that ships (graphs, encoder, labels, `kdc.json`), written once and opened by everything after.

Opening one imports no torch unless its runtime is torch, so that a measuring or serving process starts fast.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from kdc.compress.plan import PrecisionPlan
from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.export.base import RUNTIMES, Arrays, Callables, Graph, Runtime, Signature
from kdc.quiet import quiet
from kdc.registry import load_plugins
from kdc.tasks.base import TASKS, Encoder, Task
from kdc.tasks.inference import predict_rows

MANIFEST = "kdc.json"
FORMAT = 2


def write_artifact(
    folder: Path, *, task: Task, runtime: Runtime, plan: PrecisionPlan, graphs: Sequence[Graph], encoder: Encoder,
    examples: Examples, model_config: Any, plugins: Sequence[str] = (),
) -> None:  # fmt: skip
    """Lower the graphs into `folder` (which exists) and add all that serving needs beside them.

    `examples` are rows as the model was trained on: their labels and the columns to read are noted.
    """
    runtime.lower(graphs, plan, folder)
    encoder.save(folder)
    if not (folder / "config.json").exists():
        with quiet():
            model_config.save_pretrained(folder)
    manifest = {
        "format": FORMAT,
        "task": task.name,
        "runtime": runtime.model_dump(mode="json"),
        "precision": plan.precision,
        "inputs": examples.inputs,
        "labels": list(examples.labels),
        "plugins": list(plugins),
        "signatures": [_SIGNATURE.dump_python(graph.signature, mode="json") for graph in graphs],
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


_SIGNATURE = TypeAdapter(Signature)
_NAME = re.compile(r"[\w.-]+")
"""Names of signatures become names of files."""


@dataclass(frozen=True)
class Artifact:
    """What a folder written by `write_artifact` says about itself; `session` loads it."""

    folder: Path
    task: Task
    runtime: Runtime
    precision: str
    inputs: tuple[str, ...]
    """The columns of examples that it reads: `text`, `text_pair`, `image`."""
    labels: tuple[str, ...]
    signatures: tuple[Signature, ...]

    @classmethod
    def open(cls, folder: Path, plugins: Sequence[str] = ()) -> Artifact:
        """Read the manifest. A file must not choose what is imported: the modules it needs must be among `plugins`.

        Those that this process has imported already count as named.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise KdcError(f"{folder} is no kdc artifact: it has no {MANIFEST}", "give a folder under artifacts/")
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if manifest["format"] != FORMAT:
                raise KdcError(f"{path}: format {manifest['format']} is not this kdc's ({FORMAT})", "export it again")
            load_plugins(plugins)
            if unnamed := [name for name in manifest["plugins"] if name not in plugins and name not in sys.modules]:
                raise KdcError(f"{folder} needs the plugin {unnamed[0]}", f"name it: --plugin {unnamed[0]}")
            runtime = RUNTIMES[manifest["runtime"]["name"]].model_validate(manifest["runtime"])
            signatures = tuple(_SIGNATURE.validate_python(s) for s in manifest["signatures"])
            for name in (n for s in signatures for n in (s.name, *(port.name for port in (*s.inputs, *s.outputs)))):
                if not _NAME.fullmatch(name):
                    raise ValueError(f"{name!r} is no name for a graph or its inputs and outputs")
            return cls(
                folder,
                TASKS[manifest["task"]](),
                runtime,
                manifest["precision"],
                tuple(manifest["inputs"]),
                tuple(manifest["labels"]),
                signatures,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise KdcError(f"{path} is damaged ({type(error).__name__}: {error})", "export it again") from error

    def session(self, *, threads: int | None = None) -> Session:
        encoder = self.task.encoder.load(self.folder)
        with quiet():
            graphs = self.runtime.load(self.folder, self.signatures, threads=threads)
        return Session(self, encoder, graphs)


@dataclass(frozen=True)
class Session:
    """An artifact that is loaded and answers."""

    artifact: Artifact
    encoder: Encoder
    graphs: Callables

    @property
    def task(self) -> Task:
        return self.artifact.task

    def run(self, batch: Arrays) -> Arrays:
        """One padded batch through the task's loop."""
        return self.task.predict(self.graphs, batch)

    def predict(self, examples: Examples, *, batch_size: int = 32) -> Arrays:
        """The outputs of every row, in the rows' order."""
        return predict_rows(self.task, self.graphs, self.encoder, self.encoder.encode(examples), batch_size=batch_size)

    def answers(self, examples: Examples) -> list[Any]:
        return self.task.answers(self.predict(examples), self.artifact.labels)

    @cached_property
    def max_length(self) -> int | None:
        """The most tokens that a row can have, where rows have lengths."""
        return self.artifact.signatures[0].limits.get("length")

    def example_batch(self, *, batch: int, length: int) -> Arrays:
        """Inputs of full length for timing: no padding, ids spread over the first thousand, noise for pictures."""
        random = np.random.default_rng(0)
        ids = min(1000, getattr(self.encoder, "vocab_size", 1000))
        sizes = {"batch": batch, "length": length}
        arrays: Arrays = {}
        for port in self.artifact.signatures[0].inputs:
            shape = [sizes[axis] if isinstance(axis, str) else axis for axis in port.axes]
            if port.name == "attention_mask":
                arrays[port.name] = np.ones(shape, dtype=port.dtype)
            elif port.name == "token_type_ids":
                arrays[port.name] = np.zeros(shape, dtype=port.dtype)
            elif np.issubdtype(np.dtype(port.dtype), np.integer):
                arrays[port.name] = random.integers(ids // 10, ids, shape).astype(port.dtype)
            else:
                arrays[port.name] = random.standard_normal(shape).astype(port.dtype)
        return arrays
