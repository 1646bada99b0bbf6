"""Freed memory is kept within the block, and given back after it."""

from __future__ import annotations

import ctypes
import resource
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from kdc.memory import kept_memory

MEGABYTES = 48
glibc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone can be told")


def faults(times: int = 20) -> int:
    """Pages that the system had to bring for blocks that are freed and wanted again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(MEGABYTES, 1 << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@glibc
def test_pages_are_brought_once() -> None:
    pages = MEGABYTES * (1 << 20) // resource.getpagesize()
    with kept_memory():
        faults()  # aligned blocks leave gaps: it takes some to find their places
        assert faults() < pages  # by itself glibc maps blocks of this size anew, 20 times as many


@glibc
def test_memory_goes_back_afterwards() -> None:
    process = psutil.Process()
    with kept_memory():
        blocks = [torch.ones(1 << 18) for _ in range(200)]
        held = process.memory_info().rss
        del blocks
    assert process.memory_info().rss < held - (150 << 20)


@pytest.mark.parametrize("system", ["linux", "win32"])
def test_elsewhere_nothing_happens(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another C library on Linux, and a system whose libraries have no such list of all names."""
    asked: list[str] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: asked.append(system) or SimpleNamespace())
    monkeypatch.setattr(sys, "platform", system)
    with kept_memory():
        assert torch.ones(3).sum() == 3
    assert asked == [system] * (system == "linux")


@glibc
def test_an_older_library_keeps_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def mallopt(parameter: int, value: int) -> int:
        asked.append((parameter, value))
        return int(value <= 32 << 20)

    library = SimpleNamespace(mallopt=mallopt, malloc_trim=lambda pad: 1)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    with kept_memory():
        assert asked[-1] == (-3, 32 << 20)
