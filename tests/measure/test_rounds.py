from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.measure import machine_lock, rounds
from kdc.measure.rounds import Contender, rotated, timed_rounds
from kdc.measure.settings import BenchConfig
from tests.workers import Workers

BENCH = BenchConfig(name="tiny", batches=[1, 2], lengths=[8, 128], rounds=3, calls=5, seconds=0.2, rows=4, threads=1)
ONE = {"batch": 4, "threads": 1}


@pytest.fixture
def no_artifacts(monkeypatch):
    """Contenders need no files: all have the same one workload."""
    from kdc.export.artifact import Artifact

    monkeypatch.setattr(Artifact, "open", lambda *_: SimpleNamespace(task="any"))
    monkeypatch.setattr(rounds, "grid", lambda *_: ([ONE], []))


def test_every_round_starts_every_contender_once_in_turned_order():
    turned = [rotated(["a", "b", "c"], round_) for round_ in range(4)]
    assert turned == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]


def test_two_contenders_alternate_as_abba_and_more_rounds_go_on_where_the_last_ended(no_artifacts, monkeypatch):
    medians = {"a": [1.0, 2.0, 4.0, 8.0], "b": [2.0, 2.0, 2.0, 2.0]}
    workers = Workers(medians).install(monkeypatch)
    with timed_rounds({"a": Contender(Path("a")), "b": Contender(Path("b"))}, BENCH) as timed:
        timed.more(1)
        assert timed.count == 1
        timed.more(3)
    assert [name for name, _ in workers.jobs] == list("abbaabba")
    assert timed.count == 4
    assert timed.workloads == {"a": [ONE], "b": [ONE]}
    np.testing.assert_array_equal(timed.medians("a", ONE), medians["a"])
    np.testing.assert_allclose(timed.log_ratios("a", "b", ONE), np.log([2, 1, 0.5, 0.25]))


def test_progress_counts_the_workers_of_what_was_asked_for(no_artifacts, monkeypatch):
    Workers({"a": [1.0] * 3, "b": [1.0] * 3}).install(monkeypatch)
    seen = []
    both = {"a": Contender(Path("a")), "b": Contender(Path("b"))}
    with timed_rounds(both, BENCH, progress=lambda *step: seen.append(step)) as timed:
        timed.more(2)
        timed.more(1)
    assert seen == [(0, 4, "a"), (1, 4, "b"), (2, 4, "b"), (3, 4, "a"), (0, 2, "a"), (1, 2, "b")]


KILLED = KdcError("timing b: the process was killed", "out of memory?", exit_code=1)


def test_what_fails_is_dropped_and_the_others_go_on(no_artifacts, monkeypatch):
    workers = Workers({"a": [1.0] * 3, "b": [2.0, KILLED], "c": [3.0] * 3}).install(monkeypatch)
    seen = []
    contenders = {name: Contender(Path(name), against=("a",)) for name in "abc"}
    with timed_rounds(contenders, BENCH, progress=lambda *step: seen.append(step)) as timed:
        timed.more(3, dropping=True)
    assert [name for name, _ in workers.jobs] == [*"abc", *"bca", *"ca"]
    assert seen[-2:] == [(6, 9, "c"), (7, 9, "a")]
    assert (timed.count, timed.dropped, timed.workloads) == (3, ["b"], {"a": [ONE], "b": [], "c": [ONE]})
    assert timed.notes == {"a": [], "b": ["NOT TIMED: the process was killed; out of memory?"], "c": []}
    np.testing.assert_allclose(timed.log_ratios("a", "c", ONE), np.log([3, 3, 3]))


@pytest.mark.parametrize(
    ("against", "failing", "raised"),
    [
        ({"a": (), "b": ("a",)}, "a", True),  # nothing is left to hold b against
        ({"a": (), "b": ("a",)}, "b", False),
        ({"a": ("a", "b"), "b": ("a", "b"), "c": ("a", "b")}, "a", False),  # b is left for that
        ({"a": ("a", "b"), "b": ("a", "b"), "c": ("a", "b")}, "ab", True),
        ({"a": (), "b": ()}, "a", False),  # side by side
        ({"a": (), "b": ()}, "ab", True),
        ({"a": ("a",)}, "a", True),
    ],
)
def test_raises_when_nothing_is_left_to_hold_others_against(against, failing, raised, no_artifacts, monkeypatch):
    Workers({name: [KILLED if name in failing else 1.0] for name in against}).install(monkeypatch)
    contenders = {name: Contender(Path(name), against=others) for name, others in against.items()}
    with timed_rounds(contenders, BENCH) as timed:
        if raised:
            with pytest.raises(KdcError, match=r"the process was killed; out of memory\?"):
                timed.more(1, dropping=True)
        else:
            timed.more(1, dropping=True)
            assert timed.dropped == list(failing)


def test_nothing_is_dropped_unless_asked_for(no_artifacts, monkeypatch):
    """A gate of which one side fails has nothing to judge."""
    Workers({"a": [1.0], "b": [KILLED]}).install(monkeypatch)
    with timed_rounds({name: Contender(Path(name)) for name in "ab"}, BENCH) as timed, pytest.raises(KdcError):
        timed.more(1)


def test_all_that_a_container_may_use_unless_the_bench_says(no_artifacts, monkeypatch):
    workers = Workers({"b": [1.0]}).install(monkeypatch)
    monkeypatch.setattr("kdc.machine.threads", lambda: 3)
    free = BENCH.model_copy(update={"threads": None})
    with timed_rounds({"b": Contender(Path("b"), plugins=["mine"])}, free) as timed:
        timed.more(1)
    ((_, job),) = workers.jobs
    assert (job["threads"], job["plugins"], job["rows"]) == (3, ["mine"], None)


def test_each_contender_gets_its_own_rows(no_artifacts, monkeypatch):
    from kdc.data.rows import read_rows

    workers = Workers({"a": [1.0], "b": [1.0]}).install(monkeypatch)
    own = {name: Contender(Path(name), rows=Examples({"text": [name] * size})) for name, size in (("a", 9), ("b", 2))}
    with timed_rounds(own, BENCH) as timed:
        timed.more(1)
        assert [list(read_rows(Path(job["rows"]))["text"]) for _, job in workers.jobs] == [["a"] * 4, ["b"] * 2]
    assert timed.workloads["b"][-1] == {"rows": 2, "batch": 1, "end_to_end": True, "threads": 1}


def test_the_machine_is_held_while_workers_run(no_artifacts, monkeypatch):
    held = []

    class Timing:
        def __enter__(self):
            held.append("in")

        def __exit__(self, *_):
            held.append("out")

    Workers({"b": [1.0]}).install(monkeypatch)
    monkeypatch.setattr(machine_lock, "timing", lambda notify: Timing())
    with timed_rounds({"b": Contender(Path("b"))}, BENCH, progress=lambda *step: held.append(step[2])) as timed:
        timed.more(1)
    assert held == ["in", "b", "out"]


def test_a_missing_artifact_is_refused_before_the_machine_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(machine_lock, "timing", lambda notify: pytest.fail("waited"))
    with (
        pytest.raises(KdcError, match=r"nothing is no kdc artifact") as caught,
        timed_rounds({"b": Contender(tmp_path / "nothing")}, BENCH),
    ):
        pass
    assert caught.value.exit_code == 2


def test_a_graph_of_no_known_task_is_not_timed_end_to_end(no_artifacts, monkeypatch):
    from kdc.export.artifact import Artifact

    monkeypatch.setattr(Artifact, "open", lambda *_: SimpleNamespace(task=None))
    with timed_rounds({"b": Contender(Path("b"), rows=Examples({"text": ["x"]}))}, BENCH) as timed:
        assert timed.workloads == {"b": [ONE]}
        assert timed.notes == {"b": ["not timed end to end: nothing says how its inputs are made from rows"]}
