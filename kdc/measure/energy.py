"""Energy, only where counters of the hardware may be read: RAPL for the CPU's packages, NVML for an NVIDIA GPU.

Counters hold all that the package or the card used meanwhile, idling and other processes included.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol

POWERCAP = Path("/sys/class/powercap")


class Meter(Protocol):
    def start(self) -> None: ...

    def joules(self) -> float:
        """Since `start`."""
        ...


class RaplMeter:
    """The sum over packages of Intel's and AMD's running average power limit counters (microjoules, which wrap)."""

    def __init__(self, zones: list[Path]) -> None:
        self._zones = zones
        self._ranges = [_number(zone / "max_energy_range_uj") for zone in zones]

    def start(self) -> None:
        self._before = self._read()

    def joules(self) -> float:
        now = zip(self._before, self._read(), self._ranges, strict=True)
        return sum((after - before) % wrap for before, after, wrap in now) / 1e6

    def _read(self) -> list[int]:
        return [_number(zone / "energy_uj") for zone in self._zones]


class NvmlMeter:
    """The card's energy since its driver was loaded (millijoules), as NVML counts it."""

    def __init__(self, nvml: Any, uuid: str) -> None:
        nvml.nvmlInit()
        card = nvml.nvmlDeviceGetHandleByUUID(uuid)
        self._read = lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(card)
        self._read()

    def start(self) -> None:
        self._before = self._read()

    def joules(self) -> float:
        return float(self._read() - self._before) / 1e3


def meter_for(processor: str, *, root: Path = POWERCAP) -> Meter | None:
    """What counts the energy of `processor` (`cpu`, `cuda`) here; None where nothing does, or may not be read."""
    if processor == "cuda":
        return _nvml()
    zones = [zone for zone in sorted(root.glob("*-rapl:*")) if zone.name.count(":") == 1 and _readable(zone)]
    return RaplMeter(zones) if zones else None


def _nvml() -> NvmlMeter | None:
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    import torch  # what computes on `cuda` has it loaded

    # NVML numbers all cards in the order of their slots, CUDA those that CUDA_VISIBLE_DEVICES leaves, in an order of
    # its own: only the card's id is the same to both.
    uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
    try:
        return NvmlMeter(nvml, f"GPU-{uuid}")
    except nvml.NVMLError:  # no driver, or a card (a part of one, too) that does not count
        return None


def _readable(zone: Path) -> bool:
    """Most systems let only root read these: what a neighbour computes can be told from them."""
    try:
        return _number(zone / "energy_uj") >= 0 and _number(zone / "max_energy_range_uj") > 0
    except (OSError, ValueError):
        return False


def _number(file: Path) -> int:
    return int(file.read_text(encoding="ascii"))
