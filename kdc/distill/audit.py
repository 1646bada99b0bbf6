"""The loss audit: how much each term really has to say, in value and in gradient.

A weight means little by itself: a term whose gradient is lost among the others' trains nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdc.distill.cohort import Cohort
from kdc.distill.distiller import Distiller

UNHEARD = 0.01
"""A term with less than this share of the gradient has no say."""
MARK = "audit"


def audit(
    distiller: Distiller | Cohort, inputs: dict[str, Any], labels: Tensor | None, teacher: Any
) -> dict[str, float]:
    """Of every term on this batch: `<term>/raw`, `<term>/weighted` and `<term>/gradient`, the Euclidean norm of the
    weighted term's gradient over the student's parameters. Leaves gradients and random numbers as they were."""
    parameters = [parameter for parameter in distiller.student.parameters() if parameter.requires_grad]
    devices = [parameters[0].device] if parameters[0].is_cuda else []
    with torch.random.fork_rng(devices):
        parts = distiller.parts(inputs, labels, teacher)
        found: dict[str, float] = {}
        for key, (raw, weighted) in parts.items():
            gradients = torch.autograd.grad(weighted, parameters, retain_graph=True, allow_unused=True)
            norms = [gradient.float().norm() for gradient in gradients if gradient is not None]
            norm = torch.stack(norms).norm() if norms else torch.zeros(())
            found |= {f"{key}/raw": float(raw), f"{key}/weighted": float(weighted), f"{key}/gradient": float(norm)}
    return found


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


def warnings(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for every term that was not heard, at the first audit where it weighed anything."""
    lines: list[str] = []
    told: set[str] = set()
    for one in found:
        for key, term in one["terms"].items():
            if key in told or term["weighted"] == 0 or len(one["terms"]) == 1:
                continue
            if term["gradient_share"] < UNHEARD:
                told.add(key)
                lines.append(
                    f"loss.terms.{key} has {term['gradient_share']:.2%} of the gradient at step {one['step']}: "
                    f"it teaches next to nothing; raise loss.terms.{key}.weight or switch it off"
                )
    return lines
