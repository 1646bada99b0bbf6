"""Attributions: how much each piece of an input (a token, a patch of pixels) spoke for an answer of a torch model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdc.data.examples import Examples
from kdc.export.base import Graph
from kdc.models.build import Built
from kdc.tasks.base import Task
from kdc.tasks.text import TextEncoder

STEPS, CHUNK = (32, 128, 512), 8
"""Points on the way of integrated gradients, as many as it takes, and how many go through the model at once."""
INCOMPLETE = 0.01
"""What the shares may miss of their sum before the record says so."""
PATCHES = 16
"""Pixels are summed into patches where a picture has more of them on a side."""

Pieces = list[tuple[str, float]]
Evidence = Callable[[Tensor], Tensor]
"""Points `[points, ...]` in the input space of one row -> how strongly each speaks for the answer, `[points]`."""


def attribute(
    built: Built, task: Task, rows: Examples, answers: Sequence[Any], method: str
) -> tuple[list[Pieces], list[str]]:
    """For each row, the pieces of its input with their share in the evidence for `answers[row]`, signed; and notes.

    `integrated_gradients` (Sundararajan et al. 2017, equation 1) add up to the evidence for the input less that for
    nothing: an all-zero embedding, a black picture. `input_x_gradient` (Shrikumar et al. 2016) costs one backward pass.
    The notes say where a method did not come to what it promises.
    """
    built.model.eval().requires_grad_(False)
    (graph,) = task.graphs(built.model, built.encoder, rows.select([0, 0]))
    found = [
        _attribute_row(built, task, graph, rows.select([row]), answer, method) for row, answer in enumerate(answers)
    ]
    notes = []
    if gaps := [gap for _, gap in found if gap > INCOMPLETE]:
        notes.append(
            f"in {len(gaps)} of {len(found)} rows the shares miss up to {max(gaps):.1%} of the evidence that they "
            f"should add up to, after {STEPS[-1]} steps"
        )
    return [pieces for pieces, _ in found], notes


def _attribute_row(
    built: Built, task: Task, graph: Graph, row: Examples, answer: Any, method: str
) -> tuple[Pieces, float]:
    encoded = built.encoder.encode(row)
    batch = {name: torch.from_numpy(values) for name, values in built.encoder.collate(encoded).items()}
    names = [port.name for port in graph.signature.outputs]

    def evidence(**inputs: Tensor) -> Tensor:
        outputs = graph.module(*(inputs[port.name] for port in graph.signature.inputs))
        found = task.evidence(dict(zip(names, outputs, strict=True)), answer, row.labels)
        assert found is not None, "the configuration's checks let only tasks with evidence through"
        return found

    if isinstance(built.encoder, TextEncoder):
        embedding = built.model.get_input_embeddings()

        def of_embeddings(points: Tensor) -> Tensor:  # [points, length, width]
            with embedding.register_forward_hook(lambda module, inputs, output: points):
                return evidence(**{name: tensor.expand(len(points), -1) for name, tensor in batch.items()})

        point = embedding(batch["input_ids"])[0]
        found, gap = METHODS[method](of_embeddings, point, torch.zeros_like(point))
        return _pieces(built.encoder.pieces(encoded[0]), found.sum(-1)), gap
    black = built.encoder.encode(Examples({"image": [np.zeros_like(row["image"][0])]}, row.labels))
    nothing = torch.from_numpy(built.encoder.collate(black)["pixel_values"])[0]
    found, gap = METHODS[method](lambda points: evidence(pixel_values=points), batch["pixel_values"][0], nothing)
    patches = _patches(found.sum(0).numpy())
    places = [f"{line},{column}" for line in range(patches.shape[0]) for column in range(patches.shape[1])]
    return _pieces(places, torch.from_numpy(patches.ravel())), gap


def input_x_gradient(evidence: Evidence, point: Tensor, nothing: Tensor) -> tuple[Tensor, float]:
    """The gradient at the input times the way from nothing to it: the change to first order on taking a piece away.

    These shares need not add up to anything: their gap is 0.
    """
    return (point - nothing) * _gradients(evidence, point[None])[0], 0.0


def integrated_gradients(evidence: Evidence, point: Tensor, nothing: Tensor) -> tuple[Tensor, float]:
    """The mean gradient on the straight way from `nothing` to the input, times the way; Gauss-Legendre quadrature.

    The way is walked in finer steps until the shares add up to what they must, or to the last of `STEPS`; the gap is
    what they still miss, as a share of the evidence (of 1 where that is less).
    """
    with torch.no_grad():
        before, after = evidence(torch.stack([nothing, point])).tolist()
    for steps in STEPS:
        found = (point - nothing) * _mean_gradient(evidence, point, nothing, steps)
        gap = abs(float(found.sum()) - (after - before)) / max(abs(after - before), 1.0)
        if gap <= INCOMPLETE:
            break
    return found, gap


def _mean_gradient(evidence: Evidence, point: Tensor, nothing: Tensor, steps: int) -> Tensor:
    nodes, weights = (torch.from_numpy(values).to(point) for values in np.polynomial.legendre.leggauss(steps))
    shares = ((nodes + 1) / 2).reshape(-1, *[1] * point.ndim)
    mean = torch.zeros_like(point)
    for some, weight in zip(shares.split(CHUNK), (weights / 2).split(CHUNK), strict=True):
        mean += torch.tensordot(weight, _gradients(evidence, nothing + some * (point - nothing)), dims=1)
    return mean


def _gradients(evidence: Evidence, points: Tensor) -> Tensor:
    points = points.detach().requires_grad_()
    with torch.enable_grad():
        (gradients,) = torch.autograd.grad(evidence(points).sum(), points)
    return gradients


def _patches(pixels: np.ndarray) -> np.ndarray:
    """`[height, width]` summed into at most 16 x 16 patches."""
    height, width = pixels.shape
    side = -(-max(height, width) // PATCHES)
    lines: np.ndarray = np.add.reduceat(pixels, range(0, height, side), axis=0)
    return np.asarray(np.add.reduceat(lines, range(0, width, side), axis=1))


def _pieces(names: Sequence[str], values: Tensor) -> Pieces:
    return [(name, float(f"{value:.5g}")) for name, value in zip(names, values.tolist(), strict=True)]


METHODS: dict[str, Callable[[Evidence, Tensor, Tensor], tuple[Tensor, float]]] = {
    "input_x_gradient": input_x_gradient,
    "integrated_gradients": integrated_gradients,
}
