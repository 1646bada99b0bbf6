"""What makes a folder a published stage: its key, its manifest, and the steps that publish it.

The manifest names what went into the key and the sha256 of every file, so a stage can be checked by itself.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from kdc import __version__

MANIFEST = "manifest.json"
FORMAT = 1


def stage_key(name: str, version: int, parts: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON of all that a stage depends on; parts are JSON values and pydantic models."""
    if not re.fullmatch(r"[\w.+-]+", name):
        raise ValueError(f"stage name {name!r} is no folder name")
    identity = canonical({"kdc": __version__, "name": name, "version": version, "parts": parts}, name)
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def canonical(value: Any, where: str) -> Any:
    """Plain JSON, the same for equal values. What JSON cannot hold is refused: its text might not say all of it."""
    if isinstance(value, BaseModel):
        return canonical(value.model_dump(mode="json"), where)
    if isinstance(value, Mapping):
        if strange := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"stage key: {where} has the key {strange[0]!r}; keys must be strings")
        return {key: canonical(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value)):
        return value
    raise TypeError(f"stage key: {where} is {value!r}; a key holds finite JSON values and pydantic models only")


def read_manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
    return manifest


def damage_of(folder: Path) -> str | None:
    """What is wrong with a published stage: every file is read and held against the manifest. None: it is whole."""
    if not folder.is_dir():
        return "it is not there"
    try:
        manifest = read_manifest(folder)
        expected = manifest["files"]
        key = stage_key(manifest["name"], manifest["version"], manifest["parts"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST} is missing or unreadable"
    if key != folder.name or manifest["format"] != FORMAT:
        return f"{MANIFEST} is that of another stage"
    return changed(folder, expected)


def changed(folder: Path, expected: Mapping[str, Any]) -> str | None:
    """What tells the files below `folder` from those that its manifest expects, by reading every one of them."""
    found = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    if missing := sorted(expected.keys() - found.keys()):
        return f"{missing[0]} is missing"
    if extra := sorted(found.keys() - expected.keys()):
        return f"{extra[0]} does not belong to it"
    for name, path in sorted(found.items()):
        try:
            intact = path.stat().st_size == expected[name]["bytes"] and _sha256(path) == expected[name]["sha256"]
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
        if not intact:
            return f"{name} was changed"
    return None


# Publishing, in steps so small that a kill between any two of them can be tested.


def publish(folder: Path, target: Path, manifest: Mapping[str, Any]) -> None:
    """Give `folder` its manifest and its place, both on one file system: readers see all of it or nothing."""
    _write_manifest(folder, manifest)
    _sync_files(folder)
    _rename(folder, target)
    _sync(target.parent)


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(_files(folder))
    }
    text = json.dumps({**manifest, "files": files}, indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _sync_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _rename(folder: Path, target: Path) -> None:
    folder.rename(target)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
