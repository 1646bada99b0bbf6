"""Baseline bundles: one variant of a run with all that a gate needs of it, in a folder that is whole or not there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from kdc import manifest
from kdc.errors import KdcError

if TYPE_CHECKING:
    from kdc.gate.side import Side

KIND, FORMAT = "kdc.baseline", 1


def bundled_variant(place: Path) -> str | None:
    """The variant that a bundle holds; None for what is no bundle. Every file of a bundle is checked."""
    if not (place / manifest.MANIFEST).is_file():
        return None
    damaged = KdcError(f"{place}: the {manifest.MANIFEST} of this baseline is damaged", "save the baseline again")
    try:
        said = manifest.read_manifest(place)
    except (OSError, ValueError) as error:
        raise damaged from error
    if not isinstance(said, dict) or said.get("kind") != KIND:
        return None
    if said.get("format") != FORMAT or not isinstance(said.get("variant"), str) or "files" not in said:
        raise damaged
    if problem := manifest.changed(place, said["files"]):
        raise KdcError(f"the baseline in {place} is not as it was saved: {problem}", "save it again")
    variant: str = said["variant"]
    return variant


def save_bundle(side: Side, target: Path) -> None:
    """Copy record, predictions and artifact of `side` into `target`; a bundle there is replaced, nothing else is.

    KdcError where it may not or cannot be written.
    """
    assert side.folder is not None
    assert side.predictions is not None
    assert side.artifact is not None
    if Path.cwd().is_relative_to(target.resolve()):
        raise KdcError(f"{target} is where you are, and a baseline replaces its folder", "name a new folder")
    if target.exists() and not _replaceable(target):
        raise KdcError(f"{target} is there and is no baseline", "name a new folder, or a baseline to replace")
    # Beside the target, so that giving it its place is a rename.
    fresh, old = (target.with_name(f".{target.name}.{os.getpid()}.{what}") for what in ("new", "old"))
    try:
        (fresh / "predictions").mkdir(parents=True)
        shutil.copyfile(side.folder / "record.json", fresh / "record.json")
        shutil.copyfile(side.predictions, fresh / "predictions" / side.predictions.name)
        shutil.copytree(side.artifact, fresh / side.artifact.relative_to(side.folder))
        if target.exists():
            target.rename(old)
        try:
            manifest.publish(fresh, target, {"format": FORMAT, "kind": KIND, "variant": side.variant.name})
        except BaseException:
            if old.exists():
                old.rename(target)
            raise
    except OSError as error:
        raise KdcError(
            f"cannot write {target} ({error.strerror or error})", "name a folder that can be written"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _replaceable(target: Path) -> bool:
    if not target.is_dir():
        return False
    if not any(target.iterdir()):
        return True
    try:
        return manifest.read_manifest(target).get("kind") == KIND
    except (OSError, ValueError, AttributeError):
        return False
