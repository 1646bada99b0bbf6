import zlib

import numpy as np
import pytest

from kdc.errors import KdcError
from kdc.measure import size
from kdc.measure.size import artifact_size


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "graphs").mkdir()
    (tmp_path / "graphs" / "forward.onnx").write_bytes(bytes(1000))
    (tmp_path / "tokenizer.json").write_bytes(b"x" * 300)
    (tmp_path / "kdc.json").write_bytes(b"{}")
    return tmp_path


def test_counts_all_files_with_and_without_the_tokenizer(folder):
    found = artifact_size(folder, path="artifacts/student")
    assert found.path == "artifacts/student"
    assert found.files == {"graphs/forward.onnx": 1000, "kdc.json": 2, "tokenizer.json": 300}
    assert (found.bytes, found.model_bytes) == (1302, 1002)
    assert found.gzip_bytes == sum(len(zlib.compress(data, 1)) for data in (bytes(1000), b"x" * 300, b"{}"))


def test_hash_sees_contents_and_names(folder):
    before = artifact_size(folder).sha256
    assert artifact_size(folder).sha256 == before
    (folder / "kdc.json").write_bytes(b"[]")
    changed = artifact_size(folder).sha256
    (folder / "kdc.json").write_bytes(b"{}")
    (folder / "kdc.json").rename(folder / "other.json")
    assert len({before, changed, artifact_size(folder).sha256}) == 3


def test_large_files_are_compressed_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(size, "CHUNK", 1000)
    data = np.random.default_rng(0).bytes(1500) + bytes(1000)
    (tmp_path / "weights").write_bytes(data)
    pieces = [data[start : start + 1000] for start in (0, 1000, 2000)]
    assert artifact_size(tmp_path).gzip_bytes == sum(len(zlib.compress(piece, 1)) for piece in pieces)


def test_missing_artifact(tmp_path):
    with pytest.raises(KdcError, match="missing or empty"):
        artifact_size(tmp_path / "nowhere")
