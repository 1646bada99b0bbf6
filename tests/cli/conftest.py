"""A folder of its own for every test, and the fake pipeline in the real one's place."""

import sys
from pathlib import Path

import pytest

from tests.cli import fake_pipeline


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """The calls that `kdc run` made."""
    fake_pipeline.calls.clear()
    monkeypatch.setitem(sys.modules, "kdc.pipeline", fake_pipeline)
    return fake_pipeline.calls
