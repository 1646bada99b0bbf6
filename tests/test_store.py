"""The store under everything that can go wrong: damage, full disks, parallel runs, and a kill at every step."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from kdc import manifest
from kdc.errors import KdcError
from kdc.manifest import damage_of, stage_key
from kdc.store import DAY, Store, default_root

PARTS = {"rate": 0.1, "layers": [1, 2]}


class Settings(BaseModel):
    rate: float = 0.1
    folder: Path = Path("a/b")


def write(folder: Path, scratch: Path) -> None:
    (folder / "model.bin").write_bytes(b"weights" * 1000)
    (folder / "deep").mkdir()
    (folder / "deep" / "config.json").write_text("{}")


def never(folder: Path, scratch: Path) -> None:
    raise AssertionError("must not be built")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def said() -> list[str]:
    return []


def test_a_stage_is_built_once_and_then_reused(store: Store, said: list[str]) -> None:
    first = store.stage("teacher", PARTS, write, notify=said.append)
    second = store.stage("teacher", PARTS, never, notify=said.append)
    assert (first.cached, second.cached) == (False, True)
    assert first.path == second.path == store.root / "stages" / "teacher" / first.key
    assert (second.path / "model.bin").read_bytes() == b"weights" * 1000
    assert second.built_seconds == first.built_seconds
    assert said == []


def test_manifest_says_what_the_stage_is(store: Store) -> None:
    published = store.stage("teacher", {"train": Settings()}, write, version=3)
    content = json.loads((published.path / "manifest.json").read_text())
    assert content["parts"] == {"train": {"rate": 0.1, "folder": "a/b"}}
    assert (content["name"], content["version"], content["key"]) == ("teacher", 3, published.key)
    assert content["files"]["deep/config.json"] == {
        "bytes": 2,
        "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",  # of "{}"
    }


def test_key_depends_on_content_and_not_on_its_spelling() -> None:
    key = stage_key("teacher", 1, {"a": 1, "b": Settings()})
    assert key == stage_key("teacher", 1, {"b": {"folder": "a/b", "rate": 0.1}, "a": 1})
    others = [
        stage_key("student", 1, {"a": 1, "b": Settings()}),
        stage_key("teacher", 2, {"a": 1, "b": Settings()}),
        stage_key("teacher", 1, {"a": True, "b": Settings()}),
        stage_key("teacher", 1, {"a": 1, "b": Settings(rate=0.2)}),
        stage_key("teacher", 1, {"a": [1], "b": Settings()}),
    ]
    assert len({key, *others}) == 6


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), Path("x"), b"x", {1: "x"}, object()])
def test_key_refuses_what_json_cannot_hold(value: object) -> None:
    with pytest.raises(TypeError, match=r"stage key: teacher\.parts\.train\.bad "):
        stage_key("teacher", 1, {"train": {"bad": value}})


def test_key_refuses_a_name_that_is_no_folder() -> None:
    with pytest.raises(ValueError, match="no folder name"):
        stage_key("student/int8", 1, {})


def test_scratch_survives_a_failure_and_goes_after_publishing(store: Store) -> None:
    def fail(folder: Path, scratch: Path) -> None:
        (scratch / "checkpoint").write_text("step 10")
        (folder / "half").write_text("x")
        raise RuntimeError("killed")

    def resume(folder: Path, scratch: Path) -> None:
        assert (scratch / "checkpoint").read_text() == "step 10"
        assert list(folder.iterdir()) == []
        write(folder, scratch)

    with pytest.raises(RuntimeError, match="killed"):
        store.stage("teacher", PARTS, fail)
    assert [entry.unfinished for entry in store.entries()] == [True]
    assert list(store.root.glob("tmp/*")) == []
    store.stage("teacher", PARTS, resume)
    assert [entry.unfinished for entry in store.entries()] == [False]


def _flip(path: Path) -> None:
    (path / "model.bin").write_bytes(b"weightz" * 1000)


def _truncate(path: Path) -> None:
    (path / "model.bin").write_bytes(b"")


def _lose(path: Path) -> None:
    (path / "deep" / "config.json").unlink()


def _add(path: Path) -> None:
    (path / "new.txt").write_text("x")


def _garble(path: Path) -> None:
    (path / "manifest.json").write_text("{")


def _swap(path: Path) -> None:
    content = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**content, "version": 2}))


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (_flip, "model.bin was changed"),
        (_truncate, "model.bin was changed"),
        (_lose, "deep/config.json is missing"),
        (_add, "new.txt does not belong to it"),
        (_garble, "manifest.json is missing or unreadable"),
        (_swap, "manifest.json is that of another stage"),
    ],
)
def test_a_damaged_stage_is_noticed_said_and_rebuilt(store: Store, said: list[str], harm: object, what: str) -> None:
    published = store.stage("teacher", PARTS, write)
    harm(published.path)  # type: ignore[operator]
    assert [damage for _, damage in store.verify()] == [what]
    assert store.peek("teacher", PARTS) is None
    again = store.stage("teacher", PARTS, write, notify=said.append)
    assert not again.cached
    assert said == [f"stage teacher {again.key[:8]} in the store was damaged ({what}); building it again"]
    assert store.verify() == []
    assert store.stage("teacher", PARTS, never).cached


def test_peek_finds_without_building_or_marking(store: Store) -> None:
    assert store.peek("teacher", PARTS) is None
    assert not store.root.exists()
    published = store.stage("teacher", PARTS, write)
    os.utime(published.path / "manifest.json", (1000, 1000))
    found = store.peek("teacher", PARTS)
    assert found is not None
    assert (found.path, found.cached) == (published.path, True)
    assert store.entries()[0].last_used == 1000
    store.stage("teacher", PARTS, never)
    assert store.entries()[0].last_used > 1000


def _aged(store: Store, name: str, days: float) -> None:
    published = store.stage(name, PARTS, write)
    then = time.time() - days * DAY
    os.utime(published.path / "manifest.json", (then, then))


def test_prune_by_age_by_size_and_all(store: Store) -> None:
    for name, days in [("old", 40), ("middle", 20), ("new", 1)]:
        _aged(store, name, days)
    assert [entry.name for entry in store.entries()] == ["old", "middle", "new"]
    size = store.entries()[0].bytes
    assert [entry.name for entry in store.prune()] == []
    assert [entry.name for entry in store.prune(older_than_days=30)] == ["old"]
    assert [entry.name for entry in store.prune(max_bytes=size + size // 2)] == ["middle"]
    assert [entry.name for entry in store.prune(everything=True)] == ["new"]
    assert store.entries() == []
    assert list(store.root.glob("tmp/*")) == []


def test_prune_leaves_what_a_run_is_at(store: Store) -> None:
    def build(folder: Path, scratch: Path) -> None:
        (scratch / "checkpoint").write_text("x")
        assert Store(store.root).prune(everything=True) == []
        assert (scratch / "checkpoint").exists()
        write(folder, scratch)

    assert not store.stage("teacher", PARTS, build).cached


@pytest.mark.parametrize("step", ["build", "_write_manifest", "_sync_files", "_rename"])
def test_a_full_disk_is_one_line_and_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.bin")

    with monkeypatch.context() as patch:
        if step != "build":
            patch.setattr(manifest, step, full)
        with pytest.raises(KdcError, match=r"stage teacher: the disk of the store .* is full \([\d,]+ MB") as caught:
            store.stage("teacher", PARTS, full if step == "build" else write)
    assert caught.value.exit_code == 1
    assert "kdc cache prune" in caught.value.remedy
    assert "\n" not in str(caught.value)
    assert list(store.root.glob("stages/*/*")) == list(store.root.glob("tmp/*")) == []
    assert not store.stage("teacher", PARTS, write).cached


def test_a_full_disk_that_a_library_reports_in_its_own_words(store: Store) -> None:
    def build(folder: Path, scratch: Path) -> None:
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(KdcError, match="is full"):
        store.stage("teacher", PARTS, build)


def test_a_real_full_device(tmp_path: Path, store: Store) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")

    def build(folder: Path, scratch: Path) -> None:
        with Path("/dev/full").open("wb") as file:
            file.write(b"x" * 100_000)

    with pytest.raises(KdcError, match="is full"):
        store.stage("teacher", PARTS, build)


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(KdcError, match=r"cache_dir: cannot use .*file.* choose a folder") as caught:
        Store(tmp_path / "file").stage("teacher", PARTS, write)
    assert caught.value.exit_code == 2


def test_a_store_without_write_permission(locked: Path) -> None:
    with pytest.raises(KdcError, match=r"cache_dir: cannot use .*Permission denied") as caught:
        Store(locked / "store").stage("teacher", PARTS, write)
    assert caught.value.exit_code == 2
    assert list(locked.iterdir()) == []


def test_errors_of_the_builder_are_not_the_stores(store: Store, tmp_path: Path) -> None:
    def build(folder: Path, scratch: Path) -> None:
        (tmp_path / "elsewhere" / "data.csv").read_text()

    with pytest.raises(FileNotFoundError):
        store.stage("teacher", PARTS, build)


def test_default_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KDC_CACHE", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("KDC_CACHE")
    assert default_root() == Path.home() / ".cache" / "kdc"


SCRIPT = """
import os, shutil, signal, sys, time
from pathlib import Path
from typing import Any
from kdc import manifest
from kdc.store import Store

root, step, when = sys.argv[1:]

def write(folder, scratch):
    with open(root + ".log", "a") as log:
        log.write("built\\n")
    (scratch / "checkpoint").write_text("x")
    if step == "build":
        os.kill(os.getpid(), signal.SIGKILL)
    while step == "slow" and not Path(root + ".go").exists():
        time.sleep(0.02)
    (folder / "model.bin").write_bytes(b"weights")

def killing(function):
    def wrapped(*args):
        if when == "after":
            function(*args)
        os.kill(os.getpid(), signal.SIGKILL)
    return wrapped

if hasattr(manifest, step):
    setattr(manifest, step, killing(getattr(manifest, step)))
if step == "forget_scratch":
    forget = shutil.rmtree
    def rmtree(path, ignore_errors=False):
        (killing(forget) if "scratch" in str(path) else forget)(path, ignore_errors)
    shutil.rmtree = rmtree
published = Store(root).stage("teacher", {"a": 1}, write, notify=lambda text: print("said:", text))
print("cached" if published.cached else "built", (published.path / "model.bin").read_text())
"""


def _run(root: Path, step: str = "none", when: str = "before") -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SCRIPT, str(root), step, when]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent)


STEPS = [
    *(("build", "before"), ("_write_manifest", "before"), ("_write_manifest", "after")),
    *(("_sync_files", "before"), ("_sync_files", "after"), ("_rename", "before"), ("_rename", "after")),
    *(("_sync", "after"), ("forget_scratch", "before"), ("forget_scratch", "after")),
]


@pytest.mark.parametrize(("step", "when"), STEPS)
def test_killed_at_any_step_leaves_a_whole_stage_or_none(store: Store, step: str, when: str) -> None:
    killed = _run(store.root, step, when)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert store.verify() == []
    published = (step, when) == ("_rename", "after") or step == "forget_scratch"
    assert [entry.unfinished for entry in store.entries()].count(False) == published

    output, _ = _run(store.root).communicate(timeout=60)
    assert output == ("cached weights\n" if published else "built weights\n")
    assert store.verify() == []
    assert list(store.root.glob("tmp/*")) == list(store.root.glob("scratch/*")) == []


def test_leftovers_of_a_killed_run_go_when_another_stage_is_built(store: Store) -> None:
    _run(store.root, "_rename", "before").communicate(timeout=60)
    assert len(list(store.root.glob("tmp/*"))) == 1
    store.stage("student", PARTS, write)
    assert list(store.root.glob("tmp/*")) == []
    assert [entry.name for entry in store.entries() if entry.unfinished] == ["teacher"]
    assert [entry.name for entry in store.prune(older_than_days=30)] == []


def _wait_for_checkpoint(store: Store) -> None:
    while not list(store.root.glob("scratch/*/checkpoint")):
        time.sleep(0.02)


def test_parallel_runs_build_a_stage_once(store: Store) -> None:
    first = _run(store.root, "slow")
    _wait_for_checkpoint(store)
    second = _run(store.root)
    assert second.stdout is not None
    key = store.entries()[0].key[:8]
    assert second.stdout.readline() == f"said: waiting for another run that builds teacher {key} ...\n"
    Path(f"{store.root}.go").touch()
    assert first.communicate(timeout=60)[0] == "built weights\n"
    assert second.communicate(timeout=60)[0] == "cached weights\n"
    assert Path(f"{store.root}.log").read_text() == "built\n"


def test_a_waiting_run_goes_on_when_the_other_is_killed(store: Store) -> None:
    first = _run(store.root, "slow")
    _wait_for_checkpoint(store)
    second = _run(store.root)
    time.sleep(0.3)
    first.kill()
    first.communicate()
    output, _ = second.communicate(timeout=60)
    assert output.endswith("built weights\n")
    assert [damage_of(entry.path) for entry in store.entries()] == [None]


def test_a_signal_while_tidying_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, remove, calls = Store(tmp_path), shutil.rmtree, []

    def interrupted(folder: Path, **settings: Any) -> None:
        calls.append(folder)
        if len(calls) == 1:
            raise KeyboardInterrupt
        remove(folder, **settings)

    def build(folder: Path, scratch: Path) -> None:
        (folder / "half").write_text("x")
        monkeypatch.setattr("kdc.store.shutil.rmtree", interrupted)
        raise LookupError

    with pytest.raises(KeyboardInterrupt):
        store.stage("a", {}, build)
    assert len(calls) == 2
    assert list((tmp_path / "tmp").iterdir()) == []
