"""Text files, read and written whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from kdc.errors import KdcError


def check_writable(path: Path) -> None:
    """KdcError where a file cannot be written there: for before the minutes that its contents take."""
    place = path if path.exists() else path.absolute().parent
    if path.is_dir() or not os.access(place, os.W_OK):
        raise KdcError(f"cannot write {path}", "name a file in a folder that is there and can be written")


def write_atomically(path: Path, text: str) -> None:
    """A reader sees the old file or the new one, never half of one."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Any:
    """What a JSON file holds; KdcError (`PATH is damaged`, `cannot read PATH`) where it is not one or not readable."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KdcError(f"cannot read {path}: {error.strerror}", "check the path and its permissions") from error
    except ValueError as error:  # not text, or not JSON
        raise KdcError(f"{path} is damaged: it is not JSON ({error})", "make it again") from error
