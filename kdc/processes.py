"""Worker processes: the environment that they start in, the time that they may take, what is said when one dies."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdc import machine
from kdc.errors import KdcError

_THREAD_COUNTS = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    *("NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "RAYON_NUM_THREADS"),
)
_NO_MEMORY = re.compile(
    r"MemoryError|bad_?alloc|out of memory|(can't|cannot|unable to|failed to) allocate", re.IGNORECASE
)
_KILLED = -9
"""What Linux does to the process that it takes memory from."""


def worker_environment(threads: int) -> dict[str, str]:
    """This process' environment with the threads of the numeric libraries set and its import path handed on.

    Not so what that path has only because of where this process happens to be: `''` and relative entries.
    """
    return {
        **machine.unshared_environment(),
        **dict.fromkeys(_THREAD_COUNTS, str(threads)),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if Path(entry).is_absolute()),
    }


def run_worker(
    job: Mapping[str, Any], *, name: str, module: str, smaller: str, seconds: float | None = None
) -> dict[str, Any]:
    """One process of `module` on `job` (which says its `threads`), to its end: what it answers.

    This process sleeps meanwhile. A worker that fails, dies or takes longer than `seconds` is a KdcError on `name`; one
    that refuses its job (a KdcError of its own) is quoted. `smaller` says what would take less memory and time.
    """
    # -P: the folder that kdc happens to be started in is no place to import from.
    command = [sys.executable, "-P", "-m", module]
    try:
        worker = subprocess.run(
            command,
            input=json.dumps(job),
            capture_output=True,
            text=True,
            timeout=seconds,
            env=worker_environment(job["threads"]),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise KdcError(
            f"{name}: the process was still running after {seconds:g} s and was stopped",
            f"{smaller}; or free the machine",
            exit_code=1,
        ) from error
    if worker.returncode:
        raise _death(name, worker.returncode, worker.stderr, smaller)
    answer: dict[str, Any] = json.loads(worker.stdout.strip().splitlines()[-1])
    return answer


def _death(name: str, returncode: int, stderr: str, smaller: str) -> KdcError:
    said = stderr.strip().splitlines()
    last = said[-1] if said else ""
    if returncode == _KILLED or _NO_MEMORY.search(last):
        ended = "was killed" if returncode == _KILLED else f"ended: {last}"
        return KdcError(f"{name}: the process {ended}", f"out of memory? {smaller}", exit_code=1)
    if returncode == 2:
        return KdcError(f"{name}: {last}")
    ended = f"signal {-returncode}" if returncode < 0 else f"exit code {returncode}"
    return KdcError(f"{name}: the process ended with {ended}{f': {last}' if last else ''}", exit_code=1)
