"""Hold a loaded artifact against the model it came from, on real rows, before anything is measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.export.artifact import Session
from kdc.export.base import Arrays, Callables

ROWS = 64
BATCH = 8
UNTRACED_PADDING = 3


@dataclass(frozen=True)
class Tolerance:
    """`agreement`: least share of rows with the same answer; `difference`: the largest, in the outputs' spread."""

    agreement: float
    difference: float


TOLERANCES = {
    "fp32": Tolerance(agreement=1.0, difference=1e-3),
    "bf16": Tolerance(agreement=0.95, difference=0.5),
    "fp16": Tolerance(agreement=0.95, difference=0.5),
    "int8": Tolerance(agreement=0.90, difference=2.0),
    "int8_static": Tolerance(agreement=0.90, difference=2.0),
    "int8_weights": Tolerance(agreement=0.95, difference=0.5),
    "codebook": Tolerance(agreement=0.90, difference=2.0),
    "int4_weights": Tolerance(agreement=0.90, difference=2.0),
}
"""An answer whose two best outputs lie closer than the difference allowed is a tie and may go either way."""


@dataclass(frozen=True)
class Fidelity:
    """What the comparison saw, worst case over batch 1, padded batches and a length that was never traced."""

    rows: int
    agreement: float
    max_difference: float
    spread: float


def check_fidelity(session: Session, reference: Callables, examples: Examples, *, precision: str) -> dict[str, Any]:
    """Compare on rows of mixed lengths, alone, in padded batches and padded beyond them; a breach raises KdcError."""
    encoder, task = session.encoder, session.task
    encoded = encoder.encode(_mixed(examples, session))
    lengths = [encoder.length(row) for row in encoded]
    limit = session.max_length or max(lengths)
    batches = [[row] for row in encoded]
    batches += [encoded[i : i + BATCH] for i in range(0, len(encoded), BATCH)]
    collated = [encoder.collate(rows) for rows in batches]
    if session.max_length:
        widest = min(limit, max(lengths) + UNTRACED_PADDING)
        collated += [encoder.collate(encoded[i : i + BATCH], length=widest) for i in range(0, len(encoded), BATCH)]
    ours, theirs = [session.run(batch) for batch in collated], [task.predict(reference, batch) for batch in collated]
    seen = _compare(ours, theirs, len(encoded), TOLERANCES[precision].difference)
    tolerance = TOLERANCES[precision]
    if not (seen.agreement >= tolerance.agreement and seen.max_difference <= tolerance.difference * seen.spread):
        artifact = session.artifact
        raise KdcError(
            f"export to {artifact.runtime.name} ({precision}) does not compute what the model computes: "
            f"{seen.agreement:.1%} of the answers agree (at least {tolerance.agreement:.0%} must) and the largest "
            f"difference is {seen.max_difference:.3g}, {seen.max_difference / seen.spread:.2g} of the outputs' spread "
            f"({tolerance.difference:g} is allowed)",
            f"leave the sensitive modules in float with compress.{precision}.exclude, or train it with .recover"
            if precision.startswith("int")
            else "report this as a bug",
            exit_code=1,
        )
    return asdict(seen)


def _mixed(examples: Examples, session: Session) -> Examples:
    """Rows of lengths from the shortest to the longest, in an order that mixes them within a batch."""
    lengths = np.array([session.encoder.length(row) for row in session.encoder.encode(examples)])
    by_length = np.argsort(lengths, kind="stable")
    picked = by_length[np.linspace(0, len(examples) - 1, min(ROWS, len(examples))).astype(int)]
    return examples.select(np.random.default_rng(0).permutation(picked))


def _compare(ours: list[Arrays], theirs: list[Arrays], rows: int, allowed: float) -> Fidelity:
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
    return Fidelity(rows=rows, agreement=agree / total, max_difference=largest, spread=spread)
