"""The same call again and again: until it is steady, and then on the clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import median

from kdc.measure.clocks import Clock

STEADY_WITHIN = 0.10
WINDOW_CALLS, WINDOW_SECONDS = 5, 0.05
"""Calls whose medians are held against each other: five, or as many as fit into the time where calls are long."""
MOST_WARM_UP_CALLS = 100
FEWEST_CALLS = 3

Call = Callable[[], object]


def warm_up(call: Call, clock: Clock, *, seconds: float) -> bool:
    """Call until the median of the last window lies within 10% of the window before; whether that was reached.

    Gives up after `MOST_WARM_UP_CALLS`, or after `seconds` and at least four windows: a call that is slow once, for
    its memory or its kernels' plans, must not look unsteady only because few calls fit into the time.
    """
    taken: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(taken) < MOST_WARM_UP_CALLS:
        taken.append(clock.milliseconds(call))
        window = window_calls(taken[-1])
        if len(taken) >= 2 * window:
            before, last = median(taken[-2 * window : -window]), median(taken[-window:])
            if abs(last - before) <= STEADY_WITHIN * before:
                return True
        if len(taken) >= 4 * window and time.perf_counter() > deadline:
            return False
    return False


def time_calls(call: Call, clock: Clock, *, calls: int, seconds: float) -> list[float]:
    """Milliseconds of each of `calls` calls; fewer when `seconds` are over, but never under `FEWEST_CALLS`."""
    samples: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(samples) < calls and (len(samples) < FEWEST_CALLS or time.perf_counter() < deadline):
        samples.append(clock.milliseconds(call))
    return samples


def window_calls(milliseconds: float) -> int:
    """Calls in a window of the warm-up, of which a call that is steady at once needs two."""
    return max(1, min(WINDOW_CALLS, math.ceil(1000 * WINDOW_SECONDS / milliseconds)))
