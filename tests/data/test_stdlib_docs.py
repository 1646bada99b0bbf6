"""The embedded text: what it reads, what it leaves out, and that its areas can be told apart."""

import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import SGDClassifier

from kdc.data import stdlib_docs
from kdc.data.config import dataset_config_model
from kdc.data.examples import Splits
from kdc.data.load import DataReport, load_splits
from kdc.data.stdlib_docs import AREA_OF, AREAS, StdlibDocs, paragraphs
from kdc.errors import KdcError


def test_paragraphs_of_docstrings_of_any_kind_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "queue.py").write_text(
        '''"""First paragraph of the module,
        over two lines.

        Too short.

        Second one that is long enough."""
raise RuntimeError("never imported")
class A:
    "The class has one line."
    async def f(self):
        """The method has one too."""
        """This string is no docstring at all."""
# A comment of many words does not count.
'''
    )
    (tmp_path / "json" / "tests").mkdir(parents=True)
    (tmp_path / "json" / "decoder.py").write_text('"""Decodes five words of JSON."""')
    (tmp_path / "json" / "tests" / "x.py").write_text('"""Tests of the package are left out."""')
    (tmp_path / "unknown.py").write_text('"""A module that belongs to no area."""')
    assert list(paragraphs(tmp_path)) == [
        ("json", "Decodes five words of JSON."),
        ("queue", "First paragraph of the module, over two lines."),
        ("queue", "Second one that is long enough."),
        ("queue", "The class has one line."),
        ("queue", "The method has one too."),
    ]


def test_no_module_belongs_to_two_areas() -> None:
    assert len(AREA_OF) == sum(len(modules.split()) for modules in AREAS.values())


@pytest.fixture(scope="module")
def loaded() -> tuple[Splits, DataReport]:
    config = dataset_config_model()(name="stdlib_docs", task="text-classification", stdlib_docs={})
    return load_splits(config, data_dir=None, seed=0)


def test_rows_are_many_unique_and_the_same_every_time(loaded, load) -> None:
    splits, report = loaded
    assert report.labels == sorted(AREAS)
    whole = find_spec("idlelib") and find_spec("tkinter")  # Debian packages them apart: fewer rows, of gui most of all
    rows, of_an_area = (10_500, 400) if whole else (9_000, 300)
    assert rows < sum(report.splits.values()) < 12_500
    assert report.overlap == {"validation": 0, "test": 0}
    assert all(len(text.split()) >= 5 for text in splits["test"]["text"])
    assert np.bincount(splits["train"]["label"]).min() > of_an_area
    assert load(name="stdlib_docs", stdlib_docs={})[1] == report


def test_a_linear_model_tells_the_areas_apart(loaded) -> None:
    splits, _ = loaded
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)
    regression = SGDClassifier(loss="log_loss", alpha=1e-5, max_iter=15, tol=None, random_state=0)
    regression.fit(words.fit_transform(splits["train"]["text"]), splits["train"]["label"])
    assert regression.score(words.transform(splits["test"]["text"]), splits["test"]["label"]) >= 0.78


def test_a_python_without_sources_says_so(tmp_path: Path, load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdlib_docs.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(KdcError, match="has no source files"):
        load(stdlib_docs={})


def test_identity_follows_the_sources_and_the_areas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdlib_docs.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    source, file = StdlibDocs(), tmp_path / "queue.py"
    file.write_text('"""Some words of a module."""')
    first = source.identity(None)
    (tmp_path / "unknown.py").write_text('"""A module that belongs to no area."""')
    assert source.identity(None) == first
    file.write_text('"""Same size of a module."""')
    assert source.identity(None) != first
    file.write_text('"""Some words of a module."""')
    monkeypatch.setitem(AREAS, "queues", "queue")
    assert source.identity(None) != first


def test_identity_is_quick() -> None:
    started = time.perf_counter()
    StdlibDocs().identity(None)
    assert time.perf_counter() - started < 2
