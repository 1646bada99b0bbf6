from types import SimpleNamespace

import pytest

from kdc.export.base import Port, Signature
from kdc.measure.settings import BenchConfig
from kdc.measure.workloads import end_to_end, grid, spelled

BENCH = BenchConfig(name="b", batches=[1, 8], lengths=[16, 64])
LOGITS = Port("logits", "float32", ("batch", 2))


def artifact(*axes, fixed=None, **limits):
    signature = Signature("forward", (Port("x", "int64", axes),), (LOGITS,), limits, fixed or {})
    return SimpleNamespace(signatures=(signature,))


def test_texts_have_batches_and_lengths():
    sizes = [(1, 16), (1, 64), (8, 16), (8, 64)]
    expected = [{"batch": batch, "length": length, "threads": 2} for batch, length in sizes]
    assert grid(artifact("batch", "length"), BENCH, 2) == (expected, [])


def test_lengths_beyond_the_model_are_left_out_and_said():
    workloads, notes = grid(artifact("batch", "length", length=32), BENCH, 1)
    assert [workload["length"] for workload in workloads] == [16, 16]
    assert notes == ["not timed at length 64: the model takes at most 32"]


@pytest.mark.parametrize(("batch", "left_out"), [(4, "1, 8"), (8, "1")])
def test_a_graph_of_a_fixed_batch_is_timed_at_that(batch, left_out):
    workloads, notes = grid(artifact("batch", "length", fixed={"batch": batch}), BENCH, 1)
    assert [(workload["batch"], workload["length"]) for workload in workloads] == [(batch, 16), (batch, 64)]
    assert notes == [f"not timed at batch {left_out}: the graph takes {batch} only"]


def test_a_graph_of_a_fixed_length_is_timed_at_that():
    workloads, notes = grid(artifact("batch", "length", fixed={"length": 64}), BENCH, 1)
    assert [(workload["batch"], workload["length"]) for workload in workloads] == [(1, 64), (8, 64)]
    assert notes == ["not timed at length 16: the graph takes 64 only"]


def test_pictures_have_no_length():
    assert grid(artifact("batch", 3, 8, 8), BENCH, 1)[0] == [{"batch": 1, "threads": 1}, {"batch": 8, "threads": 1}]


def test_rows_are_answered_one_by_one():
    assert end_to_end(9, 2) == {"rows": 9, "batch": 1, "end_to_end": True, "threads": 2}


@pytest.mark.parametrize(
    ("workload", "short", "threads"),
    [
        ({"batch": 1, "length": 32, "threads": 2}, "batch 1 x 32 tokens", " on 2 threads"),
        ({"batch": 8, "threads": 1}, "batch 8", " on 1 thread"),
        ({"rows": 100, "batch": 1, "end_to_end": True}, "100 rows end to end", ""),
    ],
)
def test_workloads_are_spelled_alike_everywhere(workload, short, threads):
    assert (spelled(workload), spelled(workload, threads=True)) == (short, short + threads)
