"""How long one call takes and how much of the device it held, by what computes: the CPU, or a CUDA device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    def milliseconds(self, call: Callable[[], object]) -> float:
        """Of one call, from asking to having the answer."""
        ...

    def peak_bytes(self) -> int | None:
        """The most memory that the device has held for this process; None where that is the process' own memory."""
        ...


class CpuClock:
    def milliseconds(self, call: Callable[[], object]) -> float:
        started = time.perf_counter_ns()
        call()
        return (time.perf_counter_ns() - started) / 1e6

    def peak_bytes(self) -> int | None:
        return None


class CudaClock:
    """CUDA events around the call and a synchronization after it. No graphs are captured; clock rates stay as they are.

    `call` starts with nothing left to do on the device, so the first event is stamped at once and the launches count.
    """

    def __init__(self) -> None:
        import torch

        self._cuda = torch.cuda
        self._before, self._after = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def milliseconds(self, call: Callable[[], object]) -> float:
        self._before.record()
        call()
        self._after.record()
        self._cuda.synchronize()
        return float(self._before.elapsed_time(self._after))

    def peak_bytes(self) -> int | None:
        return int(self._cuda.max_memory_allocated())


def clock_for(processor: str) -> Clock:
    return CudaClock() if processor == "cuda" else CpuClock()
