"""Keeping freed memory for the next step.

A training step allocates the same megabytes as the step before. glibc hands large blocks back to the system as they are
freed, and gets them again page by page, each of which the system clears: on CPUs that is a tenth of a small student's
step. Here the process keeps them while it trains.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # mallopt(3): at most so many free bytes are kept; what is mapped by itself
KEPT = {TRIM_THRESHOLD: 1 << 30, MMAP_THRESHOLD: 1 << 30}
AFTERWARDS = {TRIM_THRESHOLD: 64 << 20, MMAP_THRESHOLD: 32 << 20}
"""Where glibc's own adaptation ends for a process that has freed large blocks; it stops adapting once it is told."""


@contextmanager
def kept_memory() -> Iterator[None]:
    """Within the block, freed memory stays with the process; afterwards it goes back. Only glibc can be told."""
    if sys.platform != "linux" or not hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        yield
        return
    for parameter, value in KEPT.items():
        if not library.mallopt(parameter, value):
            library.mallopt(parameter, AFTERWARDS[parameter])  # older ones refuse to keep more
    try:
        yield
    finally:
        for parameter, value in AFTERWARDS.items():
            library.mallopt(parameter, value)
        library.malloc_trim(0)
