"""The size of an artifact: the files that ship, with and without the tokenizer, plain and gzipped."""

from __future__ import annotations

import hashlib
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kdc.errors import KdcError
from kdc.record import Artifact

ENCODER_FILES = frozenset(
    {
        "added_tokens.json",
        "merges.txt",
        "preprocessor_config.json",
        "processor_config.json",
        "sentencepiece.bpe.model",
        "special_tokens_map.json",
        "spiece.model",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
        "vocab.txt",
    }
)
"""Tokenizer and preprocessing files by the names that transformers gives them."""

CHUNK = 8 << 20


def artifact_size(folder: Path, *, path: str | None = None) -> Artifact:
    """Bytes and hash of every file below `folder`; `path` is how the record names the folder.

    `sha256` is its `checksum`. `gzip_bytes` is what zlib at level 1 leaves of each file, in pieces of 8 MB: weights
    hardly shrink more at higher levels, which take several times as long.
    """
    files = _files(folder)
    if not files:
        raise KdcError(f"no artifact in {folder}: the folder is missing or empty", exit_code=1)
    sizes = {name: file.stat().st_size for name, file in files.items()}
    pieces = [(files[name], start) for name, size in sizes.items() for start in range(0, size, CHUNK)]
    with ThreadPoolExecutor() as pool:
        gzip_bytes = sum(pool.map(lambda piece: _compressed(*piece), pieces))
    return Artifact(
        path=path or str(folder),
        sha256=checksum(folder),
        bytes=sum(sizes.values()),
        model_bytes=sum(size for name, size in sizes.items() if Path(name).name not in ENCODER_FILES),
        gzip_bytes=gzip_bytes,
        files=sizes,
    )


def checksum(folder: Path) -> str:
    """sha256 over the names and contents of every file below `folder`, in sorted order."""
    digest = hashlib.sha256()
    for name, file in _files(folder).items():
        with file.open("rb") as stream:
            digest.update(f"{name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _files(folder: Path) -> dict[str, Path]:
    found = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    return dict(sorted(found.items()))


def _compressed(file: Path, start: int) -> int:
    with file.open("rb") as stream:
        stream.seek(start)
        return len(zlib.compress(stream.read(CHUNK), 1))
