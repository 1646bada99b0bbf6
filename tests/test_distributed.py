"""Processes of one run: what is nothing where there is one alone, and whose word counts when one fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import torch

from kdc import distributed
from kdc.cli.main import report
from kdc.errors import KdcError


def test_one_process_alone_is_rank_0_and_waits_for_nobody() -> None:
    values = torch.ones(2)
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.broadcast("said") == "said"
    assert distributed.total(values) is values
    distributed.start()
    distributed.wait()
    distributed.leave()
    assert not torch.distributed.is_initialized()
    before = signal.getsignal(signal.SIGTERM)
    with distributed.together():
        assert signal.getsignal(signal.SIGTERM) is before


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(KdcError, match="started 2 processes here, but torch sees 1 GPU;") as refused:
        distributed.start()
    assert refused.value.exit_code == 2
    assert not torch.distributed.is_initialized()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Rank 0 of two processes; what another left for it."""
    box: dict[str, str] = {}
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed, "_told", lambda: box.get("told"))
    before = {one: signal.getsignal(one) for one in distributed.SIGNALS}
    yield box
    assert {one: signal.getsignal(one) for one in distributed.SIGNALS} == before


CLOSED = RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1")


@pytest.mark.parametrize(
    ("error", "told", "line"),
    [
        (KdcError("training diverged"), "process 1: training diverged", "training diverged"),
        (CLOSED, "process 1: the disk is full", "process 1: the disk is full"),
        (CLOSED, None, "another process of this run is gone; torchrun says which, and how it ended"),
        (distributed.StoppedError("stopped"), "process 1: the disk is full", "process 1: the disk is full"),
        (distributed.StoppedError("stopped"), None, "stopped"),
        (ZeroDivisionError("of its own"), None, "of its own"),
    ],
)
def test_whose_word_counts(error: Exception, told: str | None, line: str, said: dict[str, str]) -> None:
    if told is not None:
        said["told"] = told
    with pytest.raises(Exception, match=rf"^{line}$"), distributed.together(), distributed.together():
        raise error


def signalled(*numbers: signal.Signals) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


def test_signals_end_the_block_and_are_not_heard_again(said: dict[str, str]) -> None:
    def interrupted() -> None:
        try:
            signalled(signal.SIGINT)
        finally:
            signalled(*distributed.SIGNALS)

    with pytest.raises(KeyboardInterrupt), distributed.together():
        interrupted()
    with pytest.raises(distributed.StoppedError, match="torchrun stopped this run"), distributed.together():
        signalled(signal.SIGTERM)


def test_an_error_is_tidied_up_without_being_disturbed(said: dict[str, str]) -> None:
    """As a run does: the record is written after the inner block, with torchrun's signal on its way."""

    def failing() -> None:
        try:
            with distributed.together():
                raise ZeroDivisionError
        finally:
            signalled(signal.SIGTERM)

    with pytest.raises(ZeroDivisionError), distributed.together():
        failing()


def test_the_other_processes_leave_their_line_to_rank_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left: list[str] = []
    monkeypatch.setattr(distributed, "tell", left.append)
    monkeypatch.setenv("RANK", "1")
    assert report(KdcError("the disk is full", "free some", exit_code=1)) == 1
    assert left == ["the disk is full; free some"]
    assert capsys.readouterr().err == ""
