"""`kdc cache`: what it shows, what it deletes, and its exit codes."""

import os
import time
from pathlib import Path

import pytest

from kdc.cli.cache import _bytes, readable
from kdc.cli.main import main
from kdc.store import DAY, Store


def run(*arguments: str) -> int:
    return main(["cache", *arguments])


@pytest.fixture
def store() -> Store:
    """Three stages of 1 MB each, last used 40, 20 and 0 days ago, in the default place."""

    def build(folder: Path, scratch: Path) -> None:
        (folder / "model.bin").write_bytes(bytes(10**6))

    store = Store(os.environ["KDC_CACHE"])
    for name, days in (("old", 40), ("middle", 20), ("new", 0)):
        published = store.stage(name, {}, build)
        then = time.time() - days * DAY
        os.utime(published.path / "manifest.json", (then, then))
    return store


def _names(store: Store) -> list[str]:
    return [entry.name for entry in store.entries()]


def test_list(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["stage", "new", "middle", "old", "3"]
    assert "40 days ago" in lines[3]
    assert lines[4] == f"3 stages, 3.0 MB in {store.root}"


def test_list_tells_unfinished_work(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(folder: Path, scratch: Path) -> None:
        (scratch / "checkpoint").write_text("x")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        Store(os.environ["KDC_CACHE"]).stage("teacher", {}, fail)
    run("list")
    output = capsys.readouterr().out
    assert "unfinished" in output
    assert "0 stages, 1 B" in output


def test_size(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("size") == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["1.0", "MB", "middle", "(1)"]


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        ([], ["middle", "new"]),
        (["--older-than", "10"], ["new"]),
        (["--max-size", "2.5MB"], ["middle", "new"]),
        (["--max-size", "1.5 mb"], ["new"]),
        (["--max-size", "1.95MiB"], ["middle", "new"]),
        (["--max-size", "1.95MB"], ["new"]),
        (["--all"], []),
    ],
)
def test_prune(store: Store, capsys: pytest.CaptureFixture[str], arguments: list[str], left: list[str]) -> None:
    assert run("prune", *arguments) == 0
    assert _names(store) == left
    output = capsys.readouterr().out
    assert "deleted old " in output
    assert f"freed {3 - len(left)}.0 MB; left: {len(left)} stage" in output


def test_prune_says_what_it_breaks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prune", "--help") == 0
    assert "models/ of a run holds links into the store" in capsys.readouterr().out


def test_verify(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify") == 0
    assert capsys.readouterr().out.startswith("all whole: 3 stages")
    entry = store.entries()[0]
    (entry.path / "model.bin").write_bytes(b"x")
    assert run("verify") == 1
    assert f"damaged: old {entry.key[:8]}: model.bin was changed\n" in capsys.readouterr().out


def test_another_place(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--cache-dir", str(tmp_path)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"0 stages, 0 B in {tmp_path}"


@pytest.mark.parametrize("size", ["5GiB", "5 gib", "5Gi"])
def test_an_i_counts_by_1024(size: str) -> None:
    assert _bytes(size) == 5 * 1024**3


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["sweep"], ["prune", "--max-size", "lots"], ["prune", "--max-size", "5iB"],
        ["prune", "--all", "--older-than", "3"],
    ],
)  # fmt: skip
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("kdc: error: ")
    assert error.count("\n") == 1


def test_readable() -> None:
    assert [readable(count) for count in (0, 999, 1500, 22_700_000, 3.2e9)] == [
        *("0 B", "999 B", "1.5 kB", "22.7 MB", "3.2 GB")
    ]
