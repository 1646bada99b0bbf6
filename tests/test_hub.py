"""Models from the hub's cache without a network, and quick clear failures."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from kdc import hub
from kdc.errors import KdcError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture(autouse=True)
def _asked_anew() -> None:
    """What a process remembers would reach from one test into the next."""
    hub._from_hub.cache_clear()
    hub._silence.cache_clear()


def index(folder: Path) -> None:
    """A model in two shards: their index."""
    weights = dict(zip("ab", SHARDS, strict=True))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}), encoding="utf-8")


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
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    assert hub.model_folder(str(tmp_path), None, "teacher.path") == (tmp_path, None)


def test_a_folder_with_pickled_weights_only_is_refused(tmp_path: Path) -> None:
    for name in ("config.json", "pytorch_model.bin"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    with pytest.raises(
        KdcError, match=r"teacher\.path: .* has no model\.safetensors, and kdc loads no pickled"
    ) as caught:
        hub.model_folder(str(tmp_path), None, "teacher.path")
    assert "save_pretrained(FOLDER), then teacher.path=FOLDER" in caught.value.remedy


def test_every_shard_of_the_index_must_be_there(tmp_path: Path) -> None:
    index(tmp_path)
    for name in ("config.json", *SHARDS):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    assert hub.model_folder(str(tmp_path), None, "teacher.path") == (tmp_path, None)
    (tmp_path / SHARDS[1]).unlink()
    with pytest.raises(KdcError, match=f"has no {SHARDS[1]}"):
        hub.model_folder(str(tmp_path), None, "teacher.path")
    (tmp_path / "model.safetensors.index.json").write_text("[]", encoding="utf-8")
    with pytest.raises(KdcError, match=r"index\.json is damaged"):
        hub.model_folder(str(tmp_path), None, "teacher.path")


def test_a_folder_without_a_config_says_so(tmp_path: Path) -> None:
    with pytest.raises(KdcError, match=r"student\.path: .* has no config\.json"):
        hub.model_folder(str(tmp_path), None, "student.path")


def test_a_cached_model_is_found_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(monkeypatch, tmp_path, "config.json", "model.safetensors", "tokenizer.json")
    folder, commit = hub.model_folder("owner/model", None, "teacher.path")
    assert (folder.name, commit) == (COMMIT, COMMIT)
    assert (folder / "model.safetensors").exists()


@pytest.mark.parametrize("shards", [(), SHARDS[:1]], ids=["no weights", "one shard of two"])
def test_a_model_that_is_cached_in_part_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: tuple[str, ...]
) -> None:
    cached(monkeypatch, tmp_path, "config.json", *shards)
    if shards:
        index(tmp_path / "models--owner--model" / "snapshots" / COMMIT)
    with pytest.raises(
        KdcError, match=r"'owner/model' is not in the hub cache as a whole \(model.* is missing\)"
    ) as caught:
        hub.model_folder("owner/model", None, "teacher.path")
    assert caught.value.exit_code == 1
    assert "HF_HUB_OFFLINE" in caught.value.cause
    assert "teacher.path=" in caught.value.remedy


def test_a_hub_that_does_not_answer_is_named_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(
        KdcError, match=r"not in the hub cache and http://127.0.0.1:9 cannot be reached .*; set student\.path="
    ):
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
    assert (hub.unreachable() is None) is reached


def test_a_hub_that_never_answers_is_given_up_on_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hang, asked = threading.Event(), []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: asked.append(1) or hang.wait(30))
    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.2)
    assert [hub.unreachable(), hub.unreachable()] == ["https://huggingface.co did not answer in 0 s"] * 2
    assert asked == [1]
    hang.set()


def test_a_hub_that_answers_completes_what_is_cached_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(monkeypatch, tmp_path, "config.json")
    monkeypatch.setattr(hub, "unreachable", lambda: None)
    snapshot = tmp_path / "models--owner--model" / "snapshots" / COMMIT

    def download(path: str, *, local_files_only: bool, **rest: Any) -> str:
        assert not local_files_only
        (snapshot / "model.safetensors").touch()
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert hub.model_folder("owner/model", None, "teacher.path") == (snapshot, COMMIT)


def test_a_download_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(monkeypatch, tmp_path)
    monkeypatch.setattr(hub, "unreachable", lambda: None)
    with pytest.raises(KdcError, match=r"teacher\.path: cannot get model 'no/such' from the hub") as caught:
        hub.model_folder("no/such", None, "teacher.path")
    assert "\n" not in str(caught.value)


def test_a_model_without_safetensors_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(monkeypatch, tmp_path, "config.json", "pytorch_model.bin")
    monkeypatch.setattr(hub, "unreachable", lambda: None)
    with pytest.raises(KdcError, match=r"owner/model has no model\.safetensors.*teacher\.revision=refs/pr/N"):
        hub.model_folder("owner/model", None, "teacher.path")
