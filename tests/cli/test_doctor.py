"""`kdc doctor`: what it finds, what it says is missing, and what it keeps to itself."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from kdc import machine
from kdc.cli import doctor
from kdc.cli.main import main
from kdc.record import Cpu
from kdc.store import Store


def run(*arguments: str) -> int:
    return main(["doctor", *arguments])


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """What is installed, by name, for tests to change; kdc itself is."""
    versions: dict[str, str | None] = {"kdc": "0.1.0"}
    version = metadata.version

    def lookup(name: str) -> str:
        found = versions.get(name, "") or ("" if name in versions else version(name))
        if not found:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", lookup)
    monkeypatch.setattr(machine, "packages", machine.packages.__wrapped__)
    _require(monkeypatch, [])
    return versions


def _require(monkeypatch: pytest.MonkeyPatch, requirements: list[str], extras: tuple[str, ...] = ()) -> None:
    from email.message import Message

    described = Message()
    for extra in ("dev", *extras):
        described["Provides-Extra"] = extra
    monkeypatch.setattr(metadata, "requires", lambda name: requirements)
    monkeypatch.setattr(metadata, "metadata", lambda name: described)


def _items(kind: str, cache_dir: Path) -> list[dict[str, str]]:
    items: list[dict[str, str]] = doctor.examine(cache_dir)[kind]
    return items


def test_a_sound_machine(installed: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("--cache-dir", str(tmp_path)) == 0
    output = capsys.readouterr().out
    for word in ("processor", "bf16", "onnxruntime", "fp32, int8", str(tmp_path), "0 stages", "ready:"):
        assert word in output


def test_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Store(tmp_path).stage("teacher", {}, lambda folder, scratch: None)
    run("--json", "--cache-dir", str(tmp_path))
    found = json.loads(capsys.readouterr().out)
    assert found["cache"]["stages"] == 1
    assert found["cpu"]["cores"] >= 1
    assert {runtime["name"] for runtime in found["runtimes"]} >= {"torch", "onnxruntime"}
    settings = found["hub"]["settings"]
    assert found["hub"] == {"reachable": False, "offline": True, "settings": settings, "token": False}
    assert found["hub"]["settings"]["HF_HUB_OFFLINE"] == "1"


def test_missing_and_old_packages_stop_a_run(
    installed: dict[str, str | None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _require(monkeypatch, ["numpy>=99", "nosuch-package", "rich; python_version < '3'", "pytest>=1"])
    assert _items("problems", tmp_path) == [
        {
            "what": f"numpy {metadata.version('numpy')} is installed, numpy>=99 is needed",
            "remedy": "pip install 'numpy>=99'",
        },
        {"what": "nosuch-package is not installed", "remedy": "pip install 'nosuch-package'"},
    ]


def test_extras_are_hints_that_name_the_extra(
    installed: dict[str, str | None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    requirements = ["nosuch-runtime>=1; extra == 'swift'", "numpy>=2; extra == 'swift'", "nosuch-lint; extra == 'dev'"]
    _require(monkeypatch, requirements, extras=("swift",))
    assert run("--cache-dir", str(tmp_path)) == 0
    output = capsys.readouterr().out
    assert "hint: nosuch-runtime is not installed (optional); pip install 'kdc[swift]'\n" in output
    assert "nosuch-lint" not in output


def test_no_runtime_is_a_problem(installed: dict[str, str | None], tmp_path: Path) -> None:
    installed |= {"torch": None}
    assert [item["what"] for item in _items("problems", tmp_path)] == ["no runtime has all of its packages"]


def test_a_cache_that_cannot_be_written(installed: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert run("--cache-dir", str(tmp_path / "file" / "store")) == 1
    assert [item["remedy"] for item in _items("problems", tmp_path / "file" / "store")] == [
        "choose another place with cache_dir= or KDC_CACHE"
    ]


def test_what_a_poor_machine_is_told(
    installed: dict[str, str | None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed |= {"kdc": None, "torch": "2.13.0+cpu"}
    monkeypatch.setattr(machine, "cpu", lambda: Cpu(model="old", cores=1, flags=["avx2"]))
    monkeypatch.setattr(machine, "gpus", lambda: [{"name": "NVIDIA H200", "memory_bytes": None, "driver": "1"}])
    monkeypatch.setattr(doctor, "LOW_DISK", 10**18)
    remedies = {item["what"]: item["remedy"] for item in _items("hints", tmp_path)}
    for word, remedy in {
        "runs from its sources": "pip install -e .",
        "no int8 dot product": "measure on the machine that will serve",
        "built for the CPU only": "https://pytorch.org/get-started",
        "are free": "kdc cache prune, or cache_dir=",
        "switched off": "teacher.path=, data_dir=, HF_ENDPOINT=",
    }.items():
        assert [remedies[what] for what in remedies if word in what] == [remedy]


@pytest.mark.parametrize(("bf16", "remedy"), [(False, ""), (True, ", or compress=bf16")])
def test_what_helps_where_int8_is_slow(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bf16: bool, remedy: str
) -> None:
    monkeypatch.setattr(machine, "has_int8_dot", lambda: False)
    monkeypatch.setattr(machine, "has_bf16", lambda: bf16)
    remedies = [item["remedy"] for item in _items("hints", tmp_path) if "no int8 dot product" in item["what"]]
    assert remedies == ["measure on the machine that will serve" + remedy]


def test_a_token_of_a_login_is_found_and_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text("hf_secret")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert doctor.examine(tmp_path)["hub"]["token"] is False
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert doctor.examine(tmp_path)["hub"]["token"] is True
    run("--json", "--cache-dir", str(tmp_path))
    run("--cache-dir", str(tmp_path))
    assert "hf_secret" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("http://me:secret@proxy:3128", "http://***@proxy:3128"),
        ("http://proxy:3128", "http://proxy:3128"),
        ("localhost,.example.org", "localhost,.example.org"),
    ],
)
def test_passwords_are_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str, shown: str) -> None:
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.setenv("https_proxy", value)
    assert doctor.examine(tmp_path)["hub"]["settings"]["HTTPS_PROXY"] == shown


def test_looking_at_the_cache_creates_nothing(tmp_path: Path) -> None:
    doctor.examine(tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_torch_is_not_imported() -> None:
    code = """
import sys
from pathlib import Path
from kdc.cli import doctor
from kdc.cli.main import main
doctor.examine(Path("nowhere"))
print("torch" in sys.modules)
"""
    root = Path(__file__).parent.parent.parent
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root).stdout
    assert output == "False\n"
