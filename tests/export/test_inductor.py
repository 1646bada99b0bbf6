"""Compiled packages: the model's answers at every shape, in a process without kdc, and only where they belong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from kdc import machine, trust
from kdc.compress.bf16 import Bf16
from kdc.compress.plan import PrecisionPlan
from kdc.errors import KdcError
from kdc.export.artifact import Artifact
from kdc.export.base import RUNTIMES
from kdc.export.inductor import Inductor
from kdc.export.verified import export_verified
from kdc.models.build import Built
from tests import tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(Inductor().unusable() is not None, reason="torch finds no C++ compiler"),
]
ROWS = tiny.sentences(40)
ALONE = """
import json, sys
import numpy as np, torch

ids = np.arange(2, 12).reshape(2, 5)
feeds = [ids, np.zeros_like(ids), np.ones_like(ids)]
said = torch._inductor.aoti_load_package(sys.argv[1] + "/forward.pt2")(*map(torch.from_numpy, feeds))[0]
assert "kdc" not in sys.modules
print(json.dumps(said.tolist()))
"""


@pytest.fixture(scope="module")
def built() -> Built:
    return tiny.built_bert(ROWS, layers=1)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("key"))


@pytest.fixture(autouse=True)
def _one_user(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDC_CACHE", key)


@pytest.fixture(scope="module")
def compiled(built: Built, key: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Artifact]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("KDC_CACHE", key)
        yield compile_(built, tmp_path_factory)


def compile_(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("compiled")
    seen = export_verified(built, PrecisionPlan(), Inductor(), tiny.task(), ROWS, folder)
    assert seen["fidelity"]["agreement"] == 1.0
    assert seen["fidelity"]["max_difference"] < 1e-4
    eager = tmp_path_factory.mktemp("eager")
    other = export_verified(built, PrecisionPlan(), RUNTIMES["torch"](name="torch"), tiny.task(), ROWS, eager)
    assert seen["macs"]["total"] == other["macs"]["total"]
    artifact = Artifact.open(folder)
    with pytest.raises(ValueError, match="was counted for"):
        artifact.runtime.executed(
            folder, artifact.signatures, {"forward": artifact.session().example_batch(batch=1, length=2)}
        )
    return artifact


def test_what_ships(compiled: Artifact) -> None:
    assert {path.name for path in compiled.folder.iterdir()} == {
        "forward.pt2", "machine.json", "seal.txt", "config.json", "kdc.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


def test_it_answers_without_kdc(compiled: Artifact, built: Built) -> None:
    command = [sys.executable, "-c", ALONE, str(compiled.folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=compiled.folder.parent)
    assert ended.returncode == 0, ended.stderr
    ids = torch.arange(2, 12).reshape(2, 5)
    with torch.no_grad():
        wanted = built.model(ids, torch.ones_like(ids), torch.zeros_like(ids)).logits
    np.testing.assert_allclose(json.loads(ended.stdout.splitlines()[-1]), wanted, atol=1e-4)


def test_packages_of_others_are_not_loaded(compiled: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = compiled.folder / "forward.pt2"
    whole = package.read_bytes()
    with monkeypatch.context() as patched:
        patched.setenv("KDC_CACHE", str(tmp_path))  # another user's key
        with pytest.raises(KdcError, match="native code that was not compiled here, or was changed since; compile it"):
            compiled.session()
        patched.setenv(trust.ANYWAY, "1")
        compiled.session()
    try:
        package.write_bytes(whole + b"x")
        with pytest.raises(KdcError):
            compiled.session()
    finally:
        package.write_bytes(whole)
    compiled.session()


def test_another_processor_or_torch_is_refused(compiled: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine.cpu()
    made = json.loads((compiled.folder / "machine.json").read_text())
    assert made["flags"] == here.flags
    if here.flags:
        with monkeypatch.context() as patched:
            patched.setattr(machine, "cpu", lambda: here.model_copy(update={"flags": here.flags[1:]}))
            with pytest.raises(KdcError, match="compiled for another machine: flags was"):
                compiled.session()
    monkeypatch.setattr(torch, "__version__", "1.0")
    with pytest.raises(KdcError, match=r"another machine: torch was .*, here it is 1\.0"):
        compiled.session()


def test_bf16_is_compiled_too(built: Built, tmp_path: Path) -> None:
    plan = Bf16(name="bf16").apply(built.model, PrecisionPlan()).plan
    seen = export_verified(built, plan, Inductor(), tiny.task(), ROWS, tmp_path)
    assert seen["precision"] == "bf16"
    assert seen["fidelity"]["max_difference"] > 0


def test_pictures_in_bf16_are_compiled_too(tmp_path: Path) -> None:
    pictures = tiny.pictures(12)
    small = tiny.built_net(pictures, "cnn")
    plan = Bf16(name="bf16").apply(small.model, PrecisionPlan()).plan
    seen = export_verified(small, plan, Inductor(), tiny.task("image-classification"), pictures, tmp_path)
    assert (seen["precision"], seen["macs"]["int8"]) == ("bf16", 0)


def test_a_missing_compiler_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("kdc.export.inductor.shutil.which", lambda name: None)
    assert "install g++" in str(Inductor().unusable())


def test_keys_are_drawn_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KDC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "code").write_text("code")
    trust.seal(tmp_path, ["code"])
    trust.check_seal(tmp_path, ["code"])
    key = (tmp_path / "cache" / trust.KEY).read_bytes()
    assert len(key) == 32
    assert (tmp_path / "cache" / trust.KEY).stat().st_mode & 0o077 == 0
    trust.seal(tmp_path, ["code"])
    assert (tmp_path / "cache" / trust.KEY).read_bytes() == key
    (tmp_path / "code").write_text("other")
    with pytest.raises(KdcError, match="changed since"):
        trust.check_seal(tmp_path, ["code"])
