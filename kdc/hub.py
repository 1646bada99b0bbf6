"""Models from the hub: cached ones without a network, new ones with one, and a quick clear failure otherwise."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path

from kdc.errors import KdcError

TIMEOUT_SECONDS = 4
NEEDED = ["*.json", "*.txt", "*.model", "*.safetensors"]


def reachable() -> bool:
    """Whether the hub (`HF_ENDPOINT`, through the proxies of the environment) answers at all, within seconds.

    The hub's own client retries for most of a minute before it says no.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True


def model_folder(path: str, revision: str | None, key: str) -> tuple[Path, str | None]:
    """The folder of a local path or hub id, and the hub's commit. `key` is the setting that errors name."""
    local = Path(path).expanduser()
    if local.is_dir():
        if not (local / "config.json").is_file():
            raise KdcError(f"{key}: {local} has no config.json", "give a folder written by save_pretrained")
        return local, None
    if local.is_absolute() or path.startswith((".", "~")) or path.count("/") > 1:
        raise KdcError(f"{key}: there is no folder {path}", "give a local folder or a hub id such as owner/name")
    return _from_hub(path, revision, key)


def _from_hub(path: str, revision: str | None, key: str) -> tuple[Path, str | None]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    group = key.split(".")[0]
    try:
        folder = Path(snapshot_download(path, revision=revision, allow_patterns=NEEDED, local_files_only=True))
        if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
            return folder, folder.name
    except HFValidationError as error:
        raise KdcError(
            f"{key}: '{path}' is neither a folder nor a hub id", "give a local folder or a hub id such as owner/name"
        ) from error
    except (LocalEntryNotFoundError, FileNotFoundError):
        pass
    if not reachable():
        why = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else "the hub cannot be reached"
        raise KdcError(
            f"{key}: model '{path}' is not in the hub cache and {why}",
            f"set {group}.path= to a local folder, fill the hub cache on a machine with a network, "
            f"or choose another: kdc list {group}",
            exit_code=1,
        )
    try:
        folder = Path(snapshot_download(path, revision=revision, allow_patterns=NEEDED))
    except (HfHubHTTPError, OSError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise KdcError(
            f"{key}: cannot get model '{path}' from the hub ({first_line})",
            f"check the name, or set {group}.path= to a local folder",
            exit_code=1,
        ) from error
    if not any(folder.glob("*.safetensors")):
        raise KdcError(f"{key}: '{path}' has no safetensors file", "kdc loads no pickled weights; convert it first")
    return folder, folder.name
