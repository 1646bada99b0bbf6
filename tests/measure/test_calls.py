import pytest

from kdc.measure import calls
from kdc.measure.calls import time_calls, warm_up
from kdc.measure.clocks import CpuClock

CLOCK = CpuClock()


@pytest.fixture
def lasting(monkeypatch):
    """Calls that take as many seconds as a list says, on a clock that only they move."""
    now = [0.0]

    def made(durations):
        left = iter(durations)

        def call():
            now[0] += next(left)

        return call

    monkeypatch.setattr(calls.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr("time.perf_counter_ns", lambda: round(now[0] * 1e9))
    return made


def all_used(call):
    with pytest.raises(StopIteration):
        call()
    return True


def test_short_calls_are_steady_when_two_fives_agree(lasting):
    # Of the five before the last five, three are then short ones.
    call = lasting([0.005] * 5 + [0.001] * 8)
    assert warm_up(call, CLOCK, seconds=100)
    assert all_used(call)


def test_calls_of_200_ms_are_steady_when_two_in_a_row_agree(lasting):
    """Few of them fit into the time: the slow first one must not be taken for unrest."""
    call = lasting([0.5, 0.2, 0.2])
    assert warm_up(call, CLOCK, seconds=0.1)
    assert all_used(call)


def test_gives_up_in_time_and_after_a_hundred_calls_and_says_so(lasting):
    call = lasting([1.0, 2.0, 4.0, 8.0])
    assert not warm_up(call, CLOCK, seconds=0.5)  # four windows at least, though one call was too long
    assert all_used(call)
    assert not warm_up(lasting([2.0**i for i in range(101)]), CLOCK, seconds=1e40)  # never steady


def test_end_with_their_number_or_time_but_never_under_three(lasting):
    assert time_calls(lasting([0.001] * 100), CLOCK, calls=50, seconds=1.0) == [pytest.approx(1.0)] * 50
    assert len(time_calls(lasting([0.1] * 100), CLOCK, calls=50, seconds=1.0)) == 10
    assert len(time_calls(lasting([9.0] * 100), CLOCK, calls=50, seconds=1.0)) == 3
