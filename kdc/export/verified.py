"""Export one variant and prove it: load it from disk, hold it against the model, count what runs in int8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from kdc.compress.int8 import LINEARS
from kdc.compress.plan import PrecisionPlan
from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.export.artifact import Artifact, write_artifact
from kdc.export.base import Arrays, Runtime
from kdc.export.fidelity import check_fidelity
from kdc.export.modules import graph_callables
from kdc.export.rewrites import rewritten
from kdc.models.build import Built
from kdc.tasks.base import Task

TRACED_ROWS = 3
INT8_SHARE = 0.95


def export_verified(
    built: Built,
    plan: PrecisionPlan,
    runtime: Runtime,
    task: Task,
    rows: Examples,
    folder: Path,
    plugins: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the artifact to `folder`; what was seen of it (`fidelity`, `macs`, `parameters`) comes back as plain data.

    Raises KdcError when the loaded artifact does not compute what the model computes, or when less than 95% of the
    eligible MACs run in int8.
    """
    encoder, model = built.encoder, built.model.eval()
    lengths = [encoder.length(row) for row in encoder.encode(rows)]
    longest = np.resize(np.argsort(lengths, kind="stable")[-TRACED_ROWS:], TRACED_ROWS)
    graphs = task.graphs(model, encoder, rows.select(longest))
    with rewritten(model, plan):
        write_artifact(
            folder, task=task, runtime=runtime, plan=plan, graphs=graphs, encoder=encoder, examples=rows,
            model_config=model.config, plugins=plugins,
        )  # fmt: skip
        eligible = _eligible_macs(model, graphs, plan)
    artifact = Artifact.open(folder, plugins)
    session = artifact.session()
    fidelity = check_fidelity(session, graph_callables(graphs), rows, precision=plan.precision)
    feeds = {graph.signature.name: graph.sample for graph in graphs}
    macs = runtime.macs(folder, artifact.signatures, feeds)
    if eligible and macs.int8 < INT8_SHARE * eligible:
        raise KdcError(
            f"int8 on {runtime.name}: {macs.int8 / eligible:.1%} of the MACs of linears run in int8, "
            f"at least {INT8_SHARE:.0%} must",
            "name those that should stay in float: compress.int8.exclude='[PATTERN]'",
            exit_code=1,
        )
    return {
        "fidelity": fidelity,
        "precision": plan.precision,
        "excluded": dict(plan.excluded),
        "macs": {"total": macs.total, "int8": macs.int8, "eligible": eligible},
        "parameters": {
            "total": sum(p.numel() for p in model.parameters()),
            "nonzero": sum(int(p.count_nonzero()) for p in model.parameters()),
        },
    }


def _eligible_macs(model: nn.Module, graphs: Sequence[Any], plan: PrecisionPlan) -> int:
    """MACs of every linear and LSTM that the int8 plan did not exclude, counted in torch on the traced inputs."""
    if plan.precision != "int8":
        return 0
    counted = 0

    def count(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            nonlocal counted
            if name not in plan.excluded:
                counted += int(np.prod(inputs[0].shape[:-1])) * sum(
                    p.numel() for p in module.parameters() if p.ndim == 2
                )

        return hook

    linears = [(n, m) for n, m in model.named_modules() if type(m).__name__ in LINEARS]
    hooks = [module.register_forward_hook(count(name)) for name, module in linears]
    try:
        for name, call in graph_callables(graphs).items():
            feed: Arrays = next(graph.sample for graph in graphs if graph.signature.name == name)
            call(feed)
    finally:
        for hook in hooks:
            hook.remove()
    return counted
