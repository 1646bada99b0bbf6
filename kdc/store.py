"""Content-addressed stages: nothing is computed twice, and a killed run leaves whole stages or nothing.

    <root>/stages/<name>/<key>/    published: the stage's files and manifest.json
    <root>/tmp/<name>-<key>/       being built; renamed into `stages` once it is complete
    <root>/scratch/<name>-<key>/   work that survives a kill (training checkpoints), until the stage is published
    <root>/locks/<name>-<key>.lock

Whoever changes anything of a key holds its lock, so what lies in `tmp` without a lock is a killed run's leftover. The
store knows no stage: what goes into a key, and what a stage's files mean, is its callers' business.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kdc import __version__
from kdc.errors import KdcError
from kdc.manifest import FORMAT, MANIFEST, canonical, damage_of, publish, read_manifest, stage_key

DAY = 24 * 60 * 60
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)

Build = Callable[[Path, Path], None]
"""`build(folder, scratch)` writes a stage's files into `folder`; in `scratch` it finds what a killed attempt left."""
Notify = Callable[[str], None]


@dataclass(frozen=True)
class Published:
    """A stage in the store. `seconds` is what this call took, `built_seconds` what building the stage took."""

    name: str
    key: str
    path: Path
    cached: bool
    seconds: float
    built_seconds: float


@dataclass(frozen=True)
class Entry:
    """What the store holds for one key: a published stage, or the `unfinished` work of a killed run. Times are UNIX."""

    name: str
    key: str
    path: Path
    bytes: int
    created: float
    last_used: float
    unfinished: bool = False


def default_root() -> Path:
    """Where the store is unless `cache_dir=` says otherwise."""
    return Path(os.environ.get("KDC_CACHE") or "~/.cache/kdc").expanduser()


class Store:
    """The stages under one root folder, shared by any number of processes."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).expanduser().absolute()

    def stage(
        self, name: str, parts: Mapping[str, Any], build: Build, *, version: int = 1, notify: Notify = print
    ) -> Published:
        """The published stage of these parts; built if the store does not hold it undamaged.

        Raises KdcError if the disk is full or the store cannot be written; whatever `build` raises goes through.
        """
        started = time.perf_counter()
        key = stage_key(name, version, parts)
        target = self._folder(name, key)
        with _storage_errors(self.root, f"stage {name}"):
            cached = damage_of(target) is None
            if not cached:
                with self._locked(name, key, notify):
                    damage = damage_of(target)
                    cached = damage is None  # another run may have built it while this one waited
                    if damage is not None:
                        if target.exists():
                            notify(f"stage {name} {key[:8]} in the store was damaged ({damage}); building it again")
                        self._build(name, key, build, {"parts": canonical(parts, name), "version": version})
            with suppress(OSError):  # a store that can only be read serves its stages all the same
                os.utime(target / MANIFEST)
            shutil.rmtree(self._scratch(name, key), ignore_errors=True)
        return self._published(name, key, cached=cached, seconds=time.perf_counter() - started)

    def peek(self, name: str, parts: Mapping[str, Any], *, version: int = 1) -> Published | None:
        """The stage if the store holds it undamaged; nothing is built, repaired or marked as used."""
        started = time.perf_counter()
        key = stage_key(name, version, parts)
        if damage_of(self._folder(name, key)) is not None:
            return None
        return self._published(name, key, cached=True, seconds=time.perf_counter() - started)

    def entries(self) -> list[Entry]:
        """Everything in the store, least recently used first."""
        found = []
        for path in (*self.root.glob("stages/*/*"), *self.root.glob("scratch/*")):
            with suppress(FileNotFoundError):  # a run next door may finish or delete it meanwhile
                found.append(_entry(path, unfinished=path.parent.name == "scratch"))
        return sorted(found, key=lambda entry: (entry.last_used, entry.name, entry.key))

    def verify(self) -> list[tuple[Entry, str]]:
        """Every damaged stage and what is wrong with it."""
        checked = [(entry, damage_of(entry.path)) for entry in self.entries() if not entry.unfinished]
        return [(entry, damage) for entry, damage in checked if damage is not None]

    def prune(
        self, *, older_than_days: float | None = None, max_bytes: int | None = None, everything: bool = False
    ) -> list[Entry]:
        """Delete what was not used for so long, then the least recently used until the rest fits; returns what went.

        Leftovers of killed runs go always, work that another run is at never.
        """
        removed = []
        with _storage_errors(self.root, "kdc cache prune"):
            self._sweep()
            left = sum(entry.bytes for entry in self.entries())
            for entry in self.entries():
                old = older_than_days is not None and time.time() - entry.last_used > older_than_days * DAY
                too_much = max_bytes is not None and left > max_bytes
                if (old or too_much or everything) and self._remove(entry):
                    removed.append(entry)
                    left -= entry.bytes
        return removed

    def _build(self, name: str, key: str, build: Build, identity: Mapping[str, Any]) -> None:
        self._sweep()
        target, folder, scratch = self._folder(name, key), self._tmp(name, key), self._scratch(name, key)
        started = time.perf_counter()
        self._discard(target, folder)
        try:
            folder.mkdir(parents=True)
            scratch.mkdir(parents=True, exist_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            build(folder, scratch)
            manifest = {
                "format": FORMAT,
                "name": name,
                "key": key,
                **identity,
                "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "kdc": __version__,
                "wall_seconds": round(time.perf_counter() - started, 3),
            }
            publish(folder, target, manifest)
        except BaseException:
            try:
                shutil.rmtree(folder, ignore_errors=True)
            finally:  # a signal can end the first attempt; the next one is ignored (`distributed.together`)
                shutil.rmtree(folder, ignore_errors=True)
            raise

    def _published(self, name: str, key: str, *, cached: bool, seconds: float) -> Published:
        path = self._folder(name, key)
        built_seconds = read_manifest(path)["wall_seconds"]
        return Published(name, key, path, cached, seconds, built_seconds)

    @contextmanager
    def _locked(self, name: str, key: str, notify: Notify) -> Iterator[None]:
        lock = self._lock(f"{name}-{key}")
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            notify(f"waiting for another run that builds {name} {key[:8]} ...")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _lock(self, label: str) -> FileLock:
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        return FileLock(locks / f"{label}.lock")

    def _sweep(self) -> None:
        """Delete what killed runs left in `tmp`: a folder there whose lock is free."""
        for folder in self.root.glob("tmp/*"):
            with suppress(Timeout), self._lock(folder.name).acquire(timeout=0):
                shutil.rmtree(folder, ignore_errors=True)

    def _remove(self, entry: Entry) -> bool:
        with suppress(Timeout), self._lock(f"{entry.name}-{entry.key}").acquire(timeout=0):
            self._discard(entry.path, self._tmp(entry.name, entry.key))
            return True
        return False

    def _discard(self, folder: Path, through: Path) -> None:
        """Delete a folder so that no reader meets half of it: first out of its place, then away."""
        shutil.rmtree(through, ignore_errors=True)
        if folder.exists():
            through.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(through)
            shutil.rmtree(through)

    def _folder(self, name: str, key: str) -> Path:
        return self.root / "stages" / name / key

    def _tmp(self, name: str, key: str) -> Path:
        return self.root / "tmp" / f"{name}-{key}"

    def _scratch(self, name: str, key: str) -> Path:
        return self.root / "scratch" / f"{name}-{key}"


@contextmanager
def _storage_errors(root: Path, doing: str) -> Iterator[None]:
    """Turn a full disk, or a root that cannot be written, into one line; other errors go through as they are."""
    try:
        yield
    except KdcError:
        raise
    except Exception as error:
        if _is_disk_full(error):
            raise KdcError(
                f"{doing}: the disk of the store {root} is full ({_free_bytes(root) / 1e6:,.0f} MB are free)",
                "make room with `kdc cache prune --all`, or choose another place with cache_dir=",
                exit_code=1,
            ) from error
        if isinstance(error, OSError) and error.errno in UNWRITABLE and _concerns(error.filename, root):
            raise KdcError(
                f"cache_dir: cannot use {error.filename} ({error.strerror})",
                "choose a folder that can be written with cache_dir= or KDC_CACHE",
            ) from error
        raise


def _is_disk_full(error: BaseException | None) -> bool:
    """Also when a library wraps it: safetensors keeps only the text, torch's writer not even that."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if re.search(r"no space left on device|PytorchStreamWriter failed writing", str(error), re.IGNORECASE):
            return True
        error = error.__cause__ or error.__context__
    return False


def _concerns(filename: object, root: Path) -> bool:
    """Whether the path an error names is the store, a part of it, or a parent that should have held it."""
    if not isinstance(filename, str | os.PathLike):
        return False
    path = Path(filename).absolute()
    return path.is_relative_to(root) or root.is_relative_to(path)


def _free_bytes(path: Path) -> int:
    return shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists())).free


def _entry(path: Path, *, unfinished: bool) -> Entry:
    name, key = path.name.rsplit("-", 1) if unfinished else (path.parent.name, path.name)
    stamp = path / MANIFEST if (path / MANIFEST).exists() else path
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Entry(name, key, path, size, path.stat().st_mtime, stamp.stat().st_mtime, unfinished)
