"""Stand-ins for workers: they answer at once, with the medians that a test gives them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from kdc.errors import KdcError
from kdc.measure import rounds


def answer(
    job: Mapping[str, Any], *, center: float, steady: bool = True, joules: float | None = None
) -> dict[str, Any]:
    """What a worker says whose every call takes `center` milliseconds."""
    timed = {"samples": [center] * 30, "steady": steady, "joules": joules}
    memory = dict.fromkeys(("idle_rss_bytes", "loaded_rss_bytes", "peak_rss_bytes"), 10)
    return {
        "timed": [timed] * (len(job["workloads"]) + bool(job["rows"])),
        "load_seconds": center, "first_call_ms": 9.0, "peak_gpu_bytes": None, **memory,
    }  # fmt: skip


class Workers:
    """In the place of `run_worker`: `jobs` are those it was given, in order; an error among the medians is raised."""

    def __init__(self, medians: Mapping[str, Sequence[float | KdcError]], **said: Any) -> None:
        self.jobs: list[tuple[str, Mapping[str, Any]]] = []
        self._medians: dict[str, Iterator[float | KdcError]] = {name: iter(values) for name, values in medians.items()}
        self._said = said

    def __call__(self, job: Mapping[str, Any], *, name: str, **_: Any) -> dict[str, Any]:
        name = name.removeprefix("timing ")
        self.jobs.append((name, job))
        center = next(self._medians[name])
        if isinstance(center, KdcError):
            raise center
        return answer(job, center=center, **self._said)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> Workers:
        monkeypatch.setattr(rounds, "run_worker", self)
        return self
