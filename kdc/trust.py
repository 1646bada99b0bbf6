"""Native code is loaded only if this user's kdc made it: its files are signed with a key that stays on this machine."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from kdc.errors import KdcError
from kdc.store import default_root

SEAL, KEY, ANYWAY = "seal.txt", "seal.key", "KDC_TRUST"


def seal(folder: Path, files: Sequence[str]) -> None:
    """Sign these files of `folder`, in a file beside them."""
    (folder / SEAL).write_text(_signature(folder, files, _key()) + "\n", encoding="utf-8")


def check_seal(folder: Path, files: Sequence[str]) -> None:
    """KdcError unless `seal` has signed just these files here; with KDC_TRUST=1 whatever they are."""
    if os.environ.get(ANYWAY) == "1":
        return
    try:
        sealed = hmac.compare_digest((folder / SEAL).read_bytes().strip(), _signature(folder, files, _key()).encode())
    except FileNotFoundError:
        sealed = False
    if not sealed:
        raise KdcError(
            f"{folder} holds native code that was not compiled here, or was changed since",
            f"compile it here with another cache_dir, or set {ANYWAY}=1 if you trust whoever made it",
        )


def _signature(folder: Path, files: Sequence[str], key: bytes) -> str:
    signed = hmac.new(key, digestmod=hashlib.sha256)
    for name in sorted(files):
        with (folder / name).open("rb") as file:
            signed.update(f"{name}\0".encode() + hashlib.file_digest(file, "sha256").digest())
    return signed.hexdigest()


def _key() -> bytes:
    """This user's, drawn when it is first asked for."""
    place = default_root() / KEY
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
    except FileExistsError:
        pass
    except OSError as error:
        raise KdcError(f"cannot keep the key that seals native code in {place} ({error})", "set KDC_CACHE") from error
    return place.read_bytes()
