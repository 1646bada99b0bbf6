import time
from types import SimpleNamespace

import pytest

from kdc.measure.clocks import CpuClock, CudaClock, clock_for


def test_a_call_on_the_cpu_takes_its_wall_time():
    assert 20 <= clock_for("cpu").milliseconds(lambda: time.sleep(0.02)) < 500
    assert CpuClock().peak_bytes() is None


def test_a_call_on_a_gpu_is_between_two_events_and_waited_for(monkeypatch):
    """Without a GPU: a stand-in device whose events note when they were recorded and read."""
    seen = []

    class Event:
        def __init__(self, *, enable_timing):
            assert enable_timing

        def record(self):
            seen.append("event")

        def elapsed_time(self, other):
            assert isinstance(other, Event)
            assert other is not self
            seen.append("read")
            return 1.5

    cuda = SimpleNamespace(Event=Event, synchronize=lambda: seen.append("sync"), max_memory_allocated=lambda: 2048)
    monkeypatch.setattr("torch.cuda", cuda)
    clock = clock_for("cuda")
    assert isinstance(clock, CudaClock)
    assert clock.milliseconds(lambda: seen.append("call")) == 1.5
    assert seen == ["event", "call", "event", "sync", "read"]
    assert clock.peak_bytes() == 2048


@pytest.mark.skipif("not __import__('torch').cuda.is_available()", reason="no GPU")
def test_a_real_gpu_is_waited_for():
    import torch

    left = torch.randn(4096, 4096, device="cuda")
    clock = clock_for("cuda")
    clock.milliseconds(lambda: left @ left)
    assert clock.milliseconds(lambda: [left @ left for _ in range(8)]) > 4 * clock.milliseconds(lambda: left @ left) > 0
    assert clock.peak_bytes() >= left.numel() * 4
