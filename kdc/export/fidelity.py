"""Hold a loaded artifact against the model it came from, on real rows, before anything is measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdc.compress.plan import Precision
from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.export.base import Arrays
from kdc.tasks.base import Encoder

ROWS = 64
BATCH = 8
UNTRACED_PADDING = 3


@dataclass(frozen=True)
class Tolerance:
    """`agreement`: least share of rows with the same answer; `difference`: the largest, in the outputs' spread."""

    agreement: float
    difference: float


EXACT, HALF, ROUNDED = Tolerance(1.0, 1e-3), Tolerance(0.95, 0.5), Tolerance(0.98, 0.3)
"""In 32 bits; in 16; in integers, against the same integers in float, where a sum now and then rounds the other way.

An answer whose two best outputs lie closer than the difference allowed is a tie and may go either way.
"""


@dataclass(frozen=True)
class Fidelity:
    """What the comparison saw, worst case over batch 1, padded batches and a length that was never traced."""

    agreement: float
    max_difference: float
    spread: float


def trial_batches(encoder: Encoder, examples: Examples, *, max_length: int | None) -> list[Arrays]:
    """Rows of mixed lengths: alone, in padded batches, and padded beyond them, but to no more than `max_length`."""
    encoded = encoder.encode(_mixed(examples, encoder))
    lengths = [encoder.length(row) for row in encoded]
    batches = [encoder.collate([row]) for row in encoded]
    groups = [encoded[i : i + BATCH] for i in range(0, len(encoded), BATCH)]
    batches += [encoder.collate(rows) for rows in groups]
    if max_length:
        widest = min(max_length, max(lengths) + UNTRACED_PADDING)
        batches += [encoder.collate(rows, length=widest) for rows in groups]
    return batches


def check_fidelity(what: str, ours: list[Arrays], theirs: list[Arrays], precision: Precision) -> Fidelity:
    """Hold outputs, batch by batch, against those that they should be; a breach raises KdcError that names `what`."""
    tolerance = {"fp32": EXACT, "bf16": HALF, "fp16": HALF}.get(precision, ROUNDED)
    seen = compare(ours, theirs, tolerance.difference)
    if not (seen.agreement >= tolerance.agreement and seen.max_difference <= tolerance.difference * seen.spread):
        raise KdcError(
            f"{what} ({precision}) does not compute what the model computes: "
            f"{seen.agreement:.1%} of the answers agree (at least {tolerance.agreement:.0%} must) and the largest "
            f"difference is {seen.max_difference:.3g}, {seen.max_difference / seen.spread:.2g} of the outputs' spread "
            f"({tolerance.difference:g} is allowed)",
            "report this as a bug",
            exit_code=1,
        )
    return seen


def _mixed(examples: Examples, encoder: Encoder) -> Examples:
    """Rows of lengths from the shortest to the longest, in an order that mixes them within a batch."""
    lengths = np.array([encoder.length(row) for row in encoder.encode(examples)])
    by_length = np.argsort(lengths, kind="stable")
    picked = by_length[np.linspace(0, len(examples) - 1, min(ROWS, len(examples))).astype(int)]
    return examples.select(np.random.default_rng(0).permutation(picked))


def compare(ours: list[Arrays], theirs: list[Arrays], allowed: float = EXACT.difference) -> Fidelity:
    """Over all batches and float outputs; argmax along the last axis, ties within the allowed difference forgiven."""
    agree = total = 0
    largest = 0.0
    floats = [value.ravel() for out in theirs for value in out.values() if value.dtype.kind == "f"]
    spread = float(np.concatenate(floats).std() if floats else 0.0) or 1.0
    for mine, other in zip(ours, theirs, strict=True):
        for name, wanted in other.items():
            got = mine[name]
            if got.shape != wanted.shape or not np.isfinite(got).all():
                raise KdcError(
                    f"export: output '{name}' is {got.shape} or not finite, {wanted.shape} was wanted", exit_code=1
                )
            if wanted.dtype.kind == "f":
                largest = max(largest, float(np.abs(got - wanted).max()))
                top = np.sort(wanted, axis=-1)
                tie = (top[..., -1] - top[..., -2] <= min(allowed, 1e-2) * spread) if wanted.shape[-1] > 1 else True
                same = (got.argmax(-1) == wanted.argmax(-1)) | tie
            else:
                same = got == wanted
            agree, total = agree + int(np.sum(same)), total + int(np.size(same))
    return Fidelity(agreement=agree / total, max_difference=largest, spread=spread)
