"""The loss audit: how much each term really has to say, in value and in gradient.

A weight means little by itself: a term whose gradient is lost among the others' trains nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdc import distributed
from kdc.distill.cohort import Cohort
from kdc.distill.distiller import Distiller

MARK = "audit"


def audit(
    distiller: Distiller | Cohort, inputs: dict[str, Any], labels: Tensor | None, teacher: Any, share: float = 1.0
) -> dict[str, float]:
    """Of every term on this batch: `<term>/raw`, `<term>/weighted` and `<term>/gradient`, the Euclidean norm of the
    weighted term's gradient over the student's parameters. In float32.

    Of several processes each brings its part of the batch, which counts by `share`; all get the same. Leaves gradients,
    random numbers and what a forward pass updates (batch norm's means) as they were.
    """
    parameters = [parameter for parameter in distiller.student.parameters() if parameter.requires_grad]
    devices = [parameters[0].device] if parameters[0].is_cuda else []
    before = [(buffer, buffer.clone()) for buffer in distiller.buffers()]
    compiled = [(module, module._compiled_call_impl) for module in distiller.modules() if module._compiled_call_impl]
    for module, _ in compiled:
        module._compiled_call_impl = None  # its backward runs once, and one a term is needed
    own = share / float(distributed.total(torch.tensor(share, device=parameters[0].device)))
    found: dict[str, float] = {}
    with torch.random.fork_rng(devices):
        for key, (raw, weighted) in distiller.parts(inputs, labels, teacher).items():
            gradients = torch.autograd.grad(own * weighted, parameters, retain_graph=True, allow_unused=True)
            flat = [_flat(one, parameter) for one, parameter in zip(gradients, parameters, strict=True)]
            norm = distributed.total(torch.cat(flat)).norm()
            values = distributed.total(own * torch.stack([raw, weighted]).detach().float())
            found |= {f"{key}/raw": float(values[0]), f"{key}/weighted": float(values[1])}
            found[f"{key}/gradient"] = float(norm)
    for module, impl in compiled:
        module._compiled_call_impl = impl
    with torch.no_grad():
        for buffer, saved in before:
            buffer.copy_(saved)
    return found


def _flat(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    gradient = torch.zeros_like(parameter) if gradient is None else gradient
    return (gradient.to_dense() if gradient.is_sparse else gradient).float().flatten()


def audits(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The audits in a training's log, with each term's share of the loss and of the sum of gradient norms."""
    found = []
    for row in history:
        if MARK not in row:
            continue
        values: dict[str, dict[str, float]] = {}
        for name, value in row[MARK].items():
            key, _, what = name.rpartition("/")
            values.setdefault(key, {})[what] = value
        loss, norm = (sum(abs(term[what]) for term in values.values()) for what in ("weighted", "gradient"))
        terms = {
            key: {
                "raw": term["raw"],
                "weighted": term["weighted"],
                "share": abs(term["weighted"]) / loss if loss else 0.0,
                "gradient_norm": term["gradient"],
                "gradient_share": term["gradient"] / norm if norm else 0.0,
            }
            for key, term in values.items()
        }
        found.append({"step": row["step"], "terms": terms})
    return found
