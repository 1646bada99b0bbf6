"""Artifacts: the folder that ships (graphs, encoder, labels, `kdc.json`), written once and opened by everything after.

Opening one imports no torch unless its runtime is torch, so that a measuring or serving process starts fast.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from kdc.compress.plan import PrecisionPlan
from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.export.base import RUNTIMES, Arrays, Callables, Graph, Port, Runtime, Signature
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
    signatures = tuple(graph.signature for graph in graphs)
    own = Artifact(folder, task, runtime, plan.precision, tuple(examples.inputs), examples.labels, signatures)
    write_manifest(own, plugins)


def write_manifest(artifact: Artifact, plugins: Sequence[str] = ()) -> None:
    """Make the artifact's folder, which holds its files, one that `Artifact.open` reads."""
    manifest = {
        "format": FORMAT,
        "task": artifact.task.name if artifact.task else None,
        "runtime": artifact.runtime.model_dump(mode="json"),
        "precision": artifact.precision,
        "inputs": list(artifact.inputs),
        "labels": list(artifact.labels),
        "plugins": list(plugins),
        "signatures": [
            _SIGNATURE.dump_python(signature, mode="json", exclude_defaults=True) for signature in artifact.signatures
        ],
    }
    (artifact.folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


_SIGNATURE = TypeAdapter(Signature)
_NAME = re.compile(r"[\w.-]+")
"""Names of signatures become names of files."""


@dataclass(frozen=True)
class Artifact:
    """What a folder written by `write_artifact` says about itself; `session` loads it.

    One graph that others made and of which nobody says what it is for has no task: it can be run, and no more.
    """

    folder: Path
    task: Task | None
    runtime: Runtime
    precision: str
    inputs: tuple[str, ...]
    """The columns of examples that it reads: `text`, `text_pair`, `image`."""
    labels: tuple[str, ...]
    signatures: tuple[Signature, ...]
    plugins: tuple[str, ...] = ()
    """Modules that it needs; they are imported."""

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
            for name in (signature.name for signature in signatures):
                if not _NAME.fullmatch(name):
                    raise ValueError(f"{name!r} is no name for a graph")
            return cls(
                folder,
                TASKS[manifest["task"]]() if manifest["task"] is not None else None,
                runtime,
                manifest["precision"],
                tuple(manifest["inputs"]),
                tuple(manifest["labels"]),
                signatures,
                tuple(manifest["plugins"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise KdcError(f"{path} is damaged ({type(error).__name__}: {error})", "export it again") from error

    @property
    def max_length(self) -> int | None:
        """The most tokens that a row can have, where rows have lengths."""
        return self.signatures[0].limits.get("length")

    def session(self, *, threads: int | None = None) -> Session:
        encoder = self.task.encoder.load(self.folder) if self.task else None
        with quiet():
            graphs = self.runtime.load(self.folder, self.signatures, threads=threads)
        return Session(self, graphs, encoder)


@dataclass(frozen=True)
class Session:
    """An artifact that is loaded and answers; without a task it can only `run`."""

    artifact: Artifact
    graphs: Callables
    own_encoder: Encoder | None

    @property
    def task(self) -> Task:
        if self.artifact.task is None:
            raise KdcError(f"{self.artifact.folder} is a graph of no known task", "it can be timed, and no more")
        return self.artifact.task

    @property
    def encoder(self) -> Encoder:
        if self.own_encoder is None:
            raise KdcError(f"{self.artifact.folder} has no tokenizer or preprocessing", "it can be timed, and no more")
        return self.own_encoder

    def run(self, batch: Arrays) -> Arrays:
        """One padded batch through the task's loop, or through the one graph there is."""
        if self.artifact.task is None:
            return self.graphs[self.artifact.signatures[0].name](batch)
        return self.task.predict(self.graphs, batch)

    def predict(self, examples: Examples, *, batch_size: int = 32) -> Arrays:
        """The outputs of every row, in the rows' order."""
        return predict_rows(self.task, self.graphs, self.encoder, self.encoder.encode(examples), batch_size=batch_size)

    def answers(self, examples: Examples) -> list[Any]:
        return self.task.answers(self.predict(examples), self.artifact.labels)

    def example_batch(self, *, batch: int, length: int) -> Arrays:
        """Inputs of full length for timing: no padding, ids spread over the first thousand, noise for pictures."""
        random = np.random.default_rng(0)
        sizes = {"batch": batch, "length": length}
        arrays: Arrays = {}
        for port in self.artifact.signatures[0].inputs:
            shape = [sizes[axis] if isinstance(axis, str) else axis for axis in port.axes]
            arrays[port.name] = self._example(port, shape, random)
        return arrays

    def _example(self, port: Port, shape: Sequence[int], random: np.random.Generator) -> np.ndarray:
        """Told by its name, as the files of others name their inputs too (`input_mask`, `segment_ids`)."""
        if "mask" in port.name:
            return np.ones(shape, dtype=port.dtype)
        if "type_ids" in port.name or "segment" in port.name:
            return np.zeros(shape, dtype=port.dtype)
        if "position" in port.name:
            return np.broadcast_to(np.arange(shape[-1], dtype=port.dtype), shape).copy()
        if np.issubdtype(np.dtype(port.dtype), np.integer):
            ids = min(1000, port.below or getattr(self.own_encoder, "vocab_size", 1000))
            return random.integers(ids // 10, ids, shape).astype(port.dtype)
        return random.standard_normal(shape).astype(port.dtype)
