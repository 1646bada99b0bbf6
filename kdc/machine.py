"""What this machine is and can do: processor, cores, memory, GPUs, packages. No torch, and nothing is measured."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Collection
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from kdc.errors import KdcError, did_you_mean
from kdc.record import Cpu, Environment

INT8_DOT = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
"""Instructions that multiply int8 and add up in 32 bits at once; without one, x86 adds pairs up in 16 bits."""
BF16 = ("avx512_bf16", "amx_bf16", "bf16")
FLAGS = ("avx2", "avx512f", "amx_tile", "asimd", *INT8_DOT, *BF16)
"""The processor flags that matter here, by the names Linux gives them (`asimd` is Neon, `asimddp` its dot product)."""

DARWIN_FLAGS = {"AdvSIMD": "asimd", "FEAT_DotProd": "asimddp", "FEAT_I8MM": "i8mm", "FEAT_BF16": "bf16"}

PACKAGES = (
    *("torch", "transformers", "datasets", "tokenizers", "safetensors", "accelerate", "numpy", "scipy"),
    *("scikit-learn", "pyarrow", "pydantic", "hydra-core", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf"),
)

TARGET = "KDC_CPU_FLAGS"
WAIT_POLICY, SPINS, SHARING = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KDC_SHARES_CORES"


def share_cores() -> None:
    """Let waiting (GNU) OpenMP threads sleep early; call it before torch is loaded. Leaves a user's choice alone.

    A thread that spins for one that another process has pushed off its core makes training several times slower;
    this many spins cost nothing on a quiet machine, none at all would.
    """
    if WAIT_POLICY not in os.environ and SPINS not in os.environ:
        os.environ |= {SPINS: "10000", SHARING: "1"}


def unshared_environment() -> dict[str, str]:
    """The environment as it was before `share_cores`: for processes that are timed as users would run them."""
    hidden = (SPINS, SHARING) if SHARING in os.environ else ()
    return {name: value for name, value in os.environ.items() if name not in hidden}


@cache
def cpu() -> Cpu:
    """Model name, physical cores that this process may use, and those of `FLAGS` that the processor has."""
    model, flags = _from_sysctl(_sysctl()) if sys.platform == "darwin" else _from_cpuinfo(_read(Path("/proc/cpuinfo")))
    return Cpu(model=model or platform.processor() or platform.machine(), cores=physical_cores(), flags=flags)


def target_flags() -> list[str]:
    """Of the processor that is compressed for: this one's, or what `KDC_CPU_FLAGS` names (separated by commas)."""
    if (told := os.environ.get(TARGET)) is None:
        return cpu().flags
    flags = [flag.strip() for flag in told.split(",") if flag.strip()]
    if unknown := [flag for flag in flags if flag not in FLAGS]:
        raise KdcError(f"{TARGET}: '{unknown[0]}' is no flag that matters here", did_you_mean(unknown[0], FLAGS))
    return flags


def has_int8_dot() -> bool:
    """Whether int8 matrix multiplies are fast and cannot saturate on the processor that is compressed for."""
    return any(flag in INT8_DOT for flag in target_flags())


def has_bf16(flags: Collection[str] | None = None) -> bool:
    """Whether this processor, or one with `flags`, computes bf16 in hardware; elsewhere it is emulated and slower than
    fp32."""
    return any(flag in BF16 for flag in (cpu().flags if flags is None else flags))


def threads() -> int:
    """Threads this process may keep busy: its affinity and its container's quota, not what the machine has."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(Path("/"))
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def physical_cores() -> int:
    """Cores behind those threads; two hyper-threads share one."""
    return min(psutil.cpu_count(logical=False) or threads(), threads())


def memory_bytes() -> int:
    """Memory this process may use: the machine's, or less if its container has a limit."""
    limit = _memory_limit(Path("/"))
    total: int = psutil.virtual_memory().total
    return total if limit is None else min(total, limit)


@cache
def gpus() -> list[dict[str, Any]]:
    """NVIDIA GPUs by their driver's own tool: name, memory in bytes, driver version."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []  # the tool is there and the driver is not
    rows = [[cell.strip() for cell in line.split(",")] for line in output.splitlines()]
    return [
        {"name": name, "memory_bytes": int(memory) * 2**20 if memory.isdigit() else None, "driver": driver}
        for name, memory, driver in rows
    ]


@cache
def packages() -> dict[str, str]:
    """Versions of the installed packages that can change a result."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def environment() -> Environment:
    """What a record says about the machine."""
    return Environment(python=platform.python_version(), packages=packages(), cpu=cpu(), gpus=gpus(), threads=threads())


def fingerprint(place: Environment | None = None) -> str:
    """Names the hardware that times depend on: equal on equal machines; this one's, or that of a record's `place`."""
    place = place or environment()
    hardware = json.dumps([place.cpu.model_dump(), place.threads, place.gpus], sort_keys=True)
    return hashlib.sha256(hardware.encode()).hexdigest()[:16]


def _from_cpuinfo(text: str) -> tuple[str, list[str]]:
    """Model and flags from Linux's /proc/cpuinfo; Arm says `Features` for `flags` and often names no model."""
    pairs = [line.partition(":") for line in text.splitlines() if ":" in line]
    first = {key.strip(): value.strip() for key, _, value in reversed(pairs)}
    present = set((first.get("flags") or first.get("Features") or "").split())
    return first.get("model name", ""), [flag for flag in FLAGS if flag in present]


def _from_sysctl(text: str) -> tuple[str, list[str]]:
    """Model and flags from macOS's sysctl."""
    pairs = [line.partition(":") for line in text.splitlines()]
    values = {key.rpartition(".")[2]: value.strip() for key, _, value in pairs}
    present = {flag for name, flag in DARWIN_FLAGS.items() if values.get(name) == "1"}
    return values.get("brand_string", ""), [flag for flag in FLAGS if flag in present]


def _sysctl() -> str:
    query = ["sysctl", "machdep.cpu.brand_string", "hw.optional"]
    return subprocess.run(query, capture_output=True, text=True, timeout=20, check=False).stdout


def _cpu_quota(root: Path) -> float | None:
    """Processors' worth of time that a container may use, by cgroup v2 or v1."""
    quotas = []
    for folder in _cgroups(root, "cpu"):
        limit, _, period = _read(folder / "cpu.max").strip().partition(" ")
        if not limit:
            limit, period = (_read(folder / f"cpu.cfs_{which}_us").strip() for which in ("quota", "period"))
        if limit.isdigit() and period.isdigit():
            quotas.append(int(limit) / int(period))
    return min(quotas, default=None)


def _memory_limit(root: Path) -> int | None:
    limits = [
        int(text)
        for folder in _cgroups(root, "memory")
        for file in ("memory.max", "memory.limit_in_bytes")
        if (text := _read(folder / file).strip()).isdigit()
    ]
    return min(limits, default=None)


def _cgroups(root: Path, controller: str) -> list[Path]:
    """This process's cgroup folders for a controller, with their parents: each may set a limit of its own."""
    folders = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / controllers
        inner = Path(path.lstrip("/"))
        folders += [top / inner, *(top / parent for parent in inner.parents)]
    return folders


def _read(path: Path) -> str:
    """A file of the kernel's, empty where this system has none."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
