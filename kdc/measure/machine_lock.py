"""Who may use the machine: training jobs share it, timing has it alone, so that no measured time holds another's work.

Advisory, between the kdc processes of one user, and gone with the process that held it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from kdc.errors import KdcError

Notify = Callable[[str], None]


@contextmanager
def timing(notify: Notify = print) -> Iterator[None]:
    """Hold the machine alone; waits for every training and timing that is under way."""
    with _held("write", notify, "waiting for other kdc runs on this machine to finish training or timing"):
        yield


@contextmanager
def training(notify: Notify = print) -> Iterator[None]:
    """Share the machine with other training; waits for a timing that is under way."""
    with _held("read", notify, "waiting for another kdc run on this machine to finish timing"):
        yield


@contextmanager
def _held(mode: Literal["read", "write"], notify: Notify, waiting: str) -> Iterator[None]:
    from filelock import ReadWriteLock, Timeout

    lock = ReadWriteLock(_lock_path())
    acquire = lock.acquire_write if mode == "write" else lock.acquire_read
    try:
        acquire(blocking=False)
    except Timeout:
        notify(waiting)
        # In slices, because the lock's own wait does not listen to Ctrl-C.
        while True:
            try:
                acquire(timeout=1.0)
                break
            except Timeout:
                continue
    try:
        yield
    finally:
        lock.release()


def _lock_path() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    folder = Path(tempfile.gettempdir(), f"kdc-{user}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise KdcError(f"cannot create {folder} for the timing lock ({error.strerror})", "set TMPDIR") from error
    return folder / "machine.lock.db"
