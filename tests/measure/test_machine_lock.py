"""Other holders are real processes: the lock is between processes, not threads."""

import subprocess
import sys
import tempfile
from contextlib import contextmanager

import pytest
from filelock import Timeout

from kdc.errors import KdcError
from kdc.measure import machine_lock

HOLDER = """
import sys
from kdc.measure import machine_lock
with getattr(machine_lock, sys.argv[1])():
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


@contextmanager
def another_process(mode):
    command = [sys.executable, "-c", HOLDER, mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


class WaitedError(Exception):
    pass


def refuse_to_wait(message):
    raise WaitedError(message)


@pytest.mark.parametrize(("mine", "theirs"), [("timing", "timing"), ("timing", "training"), ("training", "timing")])
def test_timing_excludes_timing_and_training(mine, theirs):
    with (
        another_process(theirs),
        pytest.raises(WaitedError, match="waiting for"),
        getattr(machine_lock, mine)(refuse_to_wait),
    ):
        pass


def test_training_shares_the_machine():
    with another_process("training"), machine_lock.training(refuse_to_wait):
        pass


def test_waits_until_the_other_is_done_and_a_killed_holder_is_done():
    said = []
    with another_process("timing") as process:

        def end_the_other(message):
            said.append(message)
            process.kill()

        with machine_lock.timing(end_the_other):
            pass
    assert len(said) == 1


def test_released_after_use_and_after_an_error():
    with pytest.raises(ZeroDivisionError), machine_lock.timing(refuse_to_wait):
        raise ZeroDivisionError
    with another_process("timing"):
        pass
    with machine_lock.training(refuse_to_wait):
        pass


def test_an_unusable_temporary_folder_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(KdcError, match="TMPDIR"), machine_lock.timing():
        pass


def test_keeps_waiting_in_slices(monkeypatch):
    """The lock's own wait ignores Ctrl-C, so it must never be asked to wait for long."""
    import filelock

    asked = []

    class Lock:
        def __init__(self, path):
            pass

        def acquire_write(self, timeout=None, blocking=True):
            asked.append(timeout if blocking else 0)
            if len(asked) < 4:
                raise Timeout("lock")

        acquire_read = acquire_write

        def release(self):
            asked.append("released")

    monkeypatch.setattr(filelock, "ReadWriteLock", Lock)
    with machine_lock.timing(lambda message: None):
        pass
    assert asked == [0, 1.0, 1.0, 1.0, "released"]
