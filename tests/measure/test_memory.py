import psutil
import pytest

from kdc.measure.memory import resident_bytes


def test_now_is_what_the_system_says_and_the_peak_stays():
    now, before = resident_bytes()
    assert now == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)
    held = bytearray(64 << 20)
    held[:: 4 << 10] = b"x" * len(held[:: 4 << 10])
    with_it, _ = resident_bytes()
    assert with_it >= now + (60 << 20)
    del held
    after, peak = resident_bytes()
    assert after <= with_it
    assert peak >= 0.99 * max(before, with_it)  # the kernel counts in batches
