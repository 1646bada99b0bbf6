"""The noise floor of this machine: an artifact timed against itself, and what is remembered of that."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from kdc import machine
from kdc.errors import KdcError
from kdc.files import write_atomically
from kdc.measure.decision import LOOKS, judge
from kdc.measure.rounds import Contender, Progress, timed_rounds
from kdc.measure.settings import BenchConfig

LOOK_CONFIDENCE = 1 - 0.05 / len(LOOKS)
FEWEST_ROUNDS = 6
"""Fewer have no bounds at that confidence."""


class NoiseFloor(BaseModel):
    """The smallest margin that a gate could have told from nothing here, with this many rounds of this workload.

    An artifact is timed against itself, and the differences are judged as one look of a gate's judges them. The floor
    is the bound that is further from none: with a margin below it, the gate would not have passed this artifact against
    itself, or would not have, had the noise fallen the other way.
    """

    floor: float
    rounds: int
    workload: dict[str, Any]
    runtime: str
    precision: str
    machine: str
    """Fingerprint of the hardware."""
    measured_at: str


def measure_floor(
    contender: Contender,
    bench: BenchConfig,
    *,
    rounds: int,
    progress: Progress = lambda done, total, now: None,
    notify: Callable[[str], None] = print,
) -> NoiseFloor:
    """Time `contender` against itself on the first workload of `bench`, as a gate does and in at most its rounds.

    How long and how often is the gate's: only batch, length and threads are `bench`'s. KdcError where it cannot run
    that workload.
    """
    from kdc.export.artifact import Artifact

    if rounds < FEWEST_ROUNDS:
        raise KdcError(f"{rounds} rounds bound no noise", f"take at least {FEWEST_ROUNDS}")
    if rounds > LOOKS[-1]:
        raise KdcError(f"a gate has no {rounds} rounds to tell differences from noise", f"take at most {LOOKS[-1]}")
    artifact = Artifact.open(contender.path, contender.plugins)
    one = BenchConfig.of_gate(batch=bench.batches[0], length=bench.lengths[0], threads=bench.threads)
    twice = {"A": contender, "A again": contender}
    with timed_rounds(twice, one, progress=progress, notify=notify) as timed:
        if len(timed.workloads["A"]) != 1:
            said = "; ".join(timed.notes["A"])
            raise KdcError(f"{contender.path} can run nothing of the bench: {said}", "choose with --length what it can")
        (workload,) = timed.workloads["A"]
        timed.more(rounds)
    seen = judge(timed.log_ratios("A", "A again", workload), 0.0, confidence=LOOK_CONFIDENCE)
    return NoiseFloor(
        floor=max(seen.high, 1 / (1 + seen.low) - 1),
        rounds=rounds,
        workload=workload,
        runtime=artifact.runtime.name,
        precision=artifact.precision,
        machine=machine.fingerprint(),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def keep_floor(floor: NoiseFloor, cache_dir: Path) -> Path:
    """Remember `floor` for its machine; a later one replaces it."""
    path = _path(cache_dir, floor.machine)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, floor.model_dump_json(indent=2) + "\n")
    return path


def known_floor(cache_dir: Path) -> NoiseFloor | None:
    """What was last measured on this machine; None where nothing was."""
    path = _path(cache_dir, machine.fingerprint())
    if not path.is_file():
        return None
    try:
        return NoiseFloor.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise KdcError(f"{path} holds no noise floor", "measure it again: kdc bench ARTIFACT --noise") from error


def _path(cache_dir: Path, fingerprint: str) -> Path:
    return cache_dir / "noise" / f"{fingerprint}.json"
