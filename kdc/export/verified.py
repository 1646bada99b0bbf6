"""Export one variant and prove it: load it in another process, hold it against the model, count what runs in int8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdc.compress.plan import PrecisionPlan
from kdc.compress.quantizer import CONVOLUTIONS, KINDS
from kdc.compress.simulate import simulated
from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.export.apart import run_apart
from kdc.export.artifact import Artifact, write_artifact
from kdc.export.base import Arrays, Runtime
from kdc.export.fidelity import ROWS, check_fidelity, compare, trial_batches
from kdc.export.modules import graph_callables
from kdc.models.build import Built
from kdc.models.rewrites import rewritten
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
    """Write the artifact to `folder`; what was seen of it (`fidelity`, `macs`, ...) comes back as plain data.

    Raises KdcError when the loaded artifact does not compute what the model computes, rounded as the plan says, or when
    less than 95% of the eligible MACs run in integers. What rounding costs is for the task's metric to say; `fidelity`
    holds the share of answers `in_float` that stay.
    """
    encoder, model = built.encoder, built.model.eval()
    lengths = [encoder.length(row) for row in encoder.encode(rows)]
    longest = np.resize(np.argsort(lengths, kind="stable")[-TRACED_ROWS:], TRACED_ROWS)
    graphs = task.graphs(model, encoder, rows.select(longest))
    with rewritten(model, plan.rewrites):
        write_artifact(
            folder, task=task, runtime=runtime, plan=plan, graphs=graphs, encoder=encoder, examples=rows,
            model_config=model.config, plugins=plugins,
        )  # fmt: skip
        eligible = _eligible_macs(model, graphs, plan)
    artifact = Artifact.open(folder, plugins)
    shipped = task.encoder.load(folder)
    batches, reference = trial_batches(shipped, rows, max_length=artifact.max_length), graph_callables(graphs)
    exact = [task.predict(reference, batch) for batch in batches]
    wanted = exact
    if plan.modules:
        with rewritten(model, plan.rewrites):
            if plan.rewrites:
                same = [task.predict(reference, batch) for batch in batches]
                check_fidelity(f"the model with {', '.join(plan.rewrites)}", same, exact, "fp32")
            with simulated(model, plan):
                wanted = [task.predict(reference, batch) for batch in batches]
    ours = run_apart(artifact, batches)
    seen = check_fidelity(f"export to {runtime.name}", ours, wanted, plan.precision)
    fidelity = {"rows": min(ROWS, len(rows)), **asdict(seen)}
    if plan.modules:
        fidelity["in_float"] = compare(ours, exact).agreement
    feeds = {graph.signature.name: graph.sample for graph in graphs}
    executed = runtime.executed(folder, artifact.signatures, feeds)
    if eligible and executed.int8 < INT8_SHARE * eligible:
        raise KdcError(
            f"{plan.precision} on {runtime.name}: {executed.int8 / eligible:.1%} of the MACs that it is for run in "
            f"integers, at least {INT8_SHARE:.0%} must",
            f"name those that should stay in float: compress.{plan.precision}.exclude='[PATTERN]'",
            exit_code=1,
        )
    return {
        "fidelity": fidelity,
        "precision": plan.precision,
        "excluded": dict(plan.excluded),
        "macs": {"total": executed.macs, "int8": executed.int8, "eligible": eligible},
        "kernels": {"operators": executed.operators, "kernels": executed.kernels, "fused": dict(executed.fused)},
        "parameters": {
            "total": sum(p.numel() for p in model.parameters()),
            "nonzero": sum(int(p.count_nonzero()) for p in model.parameters()),
        },
    }


def _eligible_macs(model: nn.Module, graphs: Sequence[Any], plan: PrecisionPlan) -> int:
    """MACs of every module that this precision is for and the plan did not exclude, in torch on the traced inputs.

    What is the same whatever the rows (DeBERTa's projections of its table of distances) a runtime computes once, when
    it loads the file: not counted.
    """
    kinds = KINDS[plan.precision] if plan.precision.startswith("int") else ()
    calls: list[tuple[Any, int]] = []

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if type(module).__name__ in CONVOLUTIONS:
            positions = output.numel() // output.shape[1]
        else:
            positions = inputs[0].numel() // inputs[0].shape[-1]
        calls.append((inputs[0].clone(), positions * sum(p.numel() for p in module.parameters() if p.ndim > 1)))

    eligible = [m for n, m in model.named_modules() if type(m).__name__ in kinds and n not in plan.excluded]
    hooks = [module.register_forward_hook(count) for module in eligible]
    seen = []
    try:
        for turned in (0, 1):
            for name, call in graph_callables(graphs).items():
                feed: Arrays = next(graph.sample for graph in graphs if graph.signature.name == name)
                call({key: np.roll(array, turned, axis=tuple(range(array.ndim))) for key, array in feed.items()})
            seen.append(calls.copy())
            calls.clear()
    finally:
        for hook in hooks:
            hook.remove()
    return sum(macs for (read, macs), (other, _) in zip(*seen, strict=True) if not torch.equal(read, other))
