"""Models from the hub's cache without a network, and quick clear failures."""

from __future__ import annotations

import time
import urllib.error
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from kdc import hub
from kdc.errors import KdcError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(monkeypatch: pytest.MonkeyPatch, home: Path, *names: str) -> None:
    """A hub cache that holds `owner/model` with these files."""
    repository = home / "models--owner--model"
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    for name in names:
        (repository / "snapshots" / COMMIT / name).write_text("{}", encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home))
    import huggingface_hub

    original = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda path, **rest: original(path, cache_dir=home, **rest)
    )


def test_a_local_folder_is_itself(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert hub.model_folder(str(tmp_path), None, "teacher.path") == (tmp_path, None)


def test_a_folder_without_a_config_says_so(tmp_path: Path) -> None:
    with pytest.raises(KdcError, match=r"student\.path: .* has no config\.json"):
        hub.model_folder(str(tmp_path), None, "student.path")


def test_a_cached_model_is_found_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(monkeypatch, tmp_path, "config.json", "model.safetensors", "tokenizer.json")
    monkeypatch.setattr(hub, "reachable", lambda: pytest.fail("asked the network"))
    folder, commit = hub.model_folder("owner/model", None, "teacher.path")
    assert (folder.name, commit) == (COMMIT, COMMIT)
    assert (folder / "model.safetensors").exists()


def test_a_cached_model_without_its_weights_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(monkeypatch, tmp_path, "config.json")
    with pytest.raises(KdcError, match=r"teacher\.path: model 'owner/model' is not in the hub cache") as caught:
        hub.model_folder("owner/model", None, "teacher.path")
    assert caught.value.exit_code == 1
    assert "HF_HUB_OFFLINE" in caught.value.cause
    assert "teacher.path=" in caught.value.remedy


def test_a_hub_that_does_not_answer_is_named_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(KdcError, match=r"not in the hub cache and the hub cannot be reached; set student\.path="):
        hub.model_folder("nobody/nothing", None, "student.path")
    assert time.monotonic() - started < 8


@pytest.mark.parametrize(
    ("answer", "reached"),
    [
        (urllib.error.HTTPError("", 405, "no HEAD here", Message(), None), True),
        (urllib.error.URLError("no route"), False),
        (TimeoutError(), False),
        (ValueError("unknown url type"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_answer_is_an_answer(monkeypatch: pytest.MonkeyPatch, answer: Exception, reached: bool) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def urlopen(*args: Any, **rest: Any) -> Any:
        assert rest["timeout"] <= 5
        raise answer

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    assert hub.reachable() is reached


def test_a_download_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(monkeypatch, tmp_path)
    monkeypatch.setattr(hub, "reachable", lambda: True)
    with pytest.raises(KdcError, match=r"teacher\.path: cannot get model 'no/such' from the hub") as caught:
        hub.model_folder("no/such", None, "teacher.path")
    assert "\n" not in str(caught.value)


def test_a_model_without_safetensors_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(monkeypatch, tmp_path, "config.json", "pytorch_model.bin")
    monkeypatch.setattr(hub, "reachable", lambda: True)
    with pytest.raises(KdcError, match="no safetensors file; kdc loads no pickled weights"):
        hub.model_folder("owner/model", None, "teacher.path")
