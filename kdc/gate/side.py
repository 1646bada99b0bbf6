"""The two that a gate compares: a variant of a record, with those of its files that are there, checked before use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kdc import machine
from kdc.compress.base import PASSES
from kdc.errors import KdcError, did_you_mean
from kdc.gate.bundle import bundled_variant
from kdc.measure.size import checksum
from kdc.record import RunRecord, Variant
from kdc.shipped import shipped


@dataclass(frozen=True)
class Side:
    """`place` is what the user named; `folder` holds the run's files, None where there is the bare record only."""

    place: Path
    record: RunRecord
    variant: Variant
    folder: Path | None

    @property
    def task(self) -> str | None:
        task: str | None = self.record.config.get("dataset", {}).get("task")
        return task

    @property
    def machine(self) -> str | None:
        """Fingerprint of the hardware that the record was made on."""
        return machine.fingerprint(self.record.environment) if self.record.environment else None

    @property
    def predictions(self) -> Path | None:
        path = self.folder / "predictions" / f"{self.variant.name}.parquet" if self.folder else None
        return path if path and path.is_file() else None

    @cached_property
    def artifact(self) -> Path | None:
        """The folder of the artifact, None where it is gone; KdcError if it is not what was recorded."""
        recorded = self.variant.artifact
        path = self.folder / recorded.path if self.folder and recorded else None
        if path is None or recorded is None or not path.is_dir():
            return None
        if checksum(path) != recorded.sha256:
            raise KdcError(f"{path} was changed since its record was written", "run it again, and gate that")
        return path

    @property
    def sha256(self) -> str | None:
        """Of the artifact, as recorded."""
        return self.variant.artifact.sha256 if self.variant.artifact else None

    @property
    def weights(self) -> list[str] | None:
        """Keys of the stages that made the variant's weights, None where the record does not hold them.

        Stages of a run are called `teacher`, `student` and `compress NAME`; passes that leave the weights as they are
        do not count.
        """
        keys = {stage.name: stage.key for stage in self.record.stages}
        model, *passes = self.variant.stage.split("+")
        chosen = self.record.config.get("compress", {})
        kinds = {name: chosen.get(name, {}).get("name") for name in passes}
        changing = [name for name in passes if kinds[name] not in PASSES or PASSES[kinds[name]].changes_weights]
        found = [keys.get(name) for name in (model, *(f"compress {name}" for name in changing))]
        whole = [key for key in found if key]
        return whole if len(whole) == len(found) else None


def open_candidate(place: Path, variant: str | None = None, *, like: Path | None = None) -> Side:
    """A variant of a finished run's folder, with predictions and artifact in place.

    By default what ships; where the run has one of the name of the variant that was saved in `like`, that one: which of
    two runtimes is a little faster today must not decide what is compared with what.
    """
    if place.is_file():
        raise KdcError(f"{place} is a file; what is gated must have its artifact", "name the folder of the run")
    record = _finished(place)
    saved = bundled_variant(like) if like is not None else None
    known = any(each.name == saved for each in record.variants)
    side = _side(place, record, variant or (saved if known else None))
    for what, found in (("predictions", side.predictions), ("artifact", side.artifact)):
        if found is None:
            raise KdcError(f"{place} has no {what} of {side.variant.name} any more", "name the folder of a whole run")
    return side


def open_baseline(place: Path, candidate: Side) -> Side:
    """What the candidate is held against: the variant of its name, else what ships; of a bundle, the one in it."""
    bundled = bundled_variant(place)
    record = _finished(place)
    named = any(variant.name == candidate.variant.name for variant in record.variants)
    side = _side(place, record, bundled or (candidate.variant.name if named else None))
    if side.task != candidate.task:
        raise KdcError(
            f"{place} is a record of another task ({side.task}; this run: {candidate.task})",
            "name a baseline of the same experiment",
        )
    return side


def _finished(place: Path) -> RunRecord:
    record = RunRecord.load(place)
    if record.run.status != "ok":
        said = "has not ended" if record.run.status == "running" else f"failed: {record.run.error}"
        raise KdcError(f"the run in {place} {said}", "name a run that ended well")
    if not record.variants:
        raise KdcError(f"the run in {place} has no variants", "name a whole run")
    return record


def _side(place: Path, record: RunRecord, variant: str | None) -> Side:
    """`variant`, or the one that ships."""
    found = {each.name: each for each in record.variants}
    ships = shipped(record)
    assert ships is not None, "a run without variants is refused before"
    name = variant or ships.name
    if name not in found:
        raise KdcError(f"{place} has no variant '{name}'", did_you_mean(name, found))
    return Side(place, record, found[name], place if place.is_dir() else None)
