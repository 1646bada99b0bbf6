"""Models from the hub: new ones with a network, cached ones without, and a quick clear failure otherwise."""

from __future__ import annotations

import json
import threading
from functools import cache
from pathlib import Path

from kdc.errors import KdcError

PROBE_SECONDS = 5.0
"""How long the hub may take to answer the first question before it counts as unreachable."""

NEEDED = ["*.json", "*.txt", "*.model", "*.safetensors"]
WEIGHTS = "model.safetensors"


def unreachable() -> str | None:
    """Why the hub (`HF_ENDPOINT`, through the proxies of the environment) does not answer, None where it does.

    The hub's own client retries for most of a minute before it says no. A process asks once.
    """
    from huggingface_hub import constants

    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _silence(constants.ENDPOINT)


@cache
def _silence(endpoint: str) -> str | None:
    """Asked in a thread of its own: an address look-up, or eight addresses tried in turn, know no common time limit."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    answer: list[str | None] = []

    def ask() -> None:
        try:
            urlopen(Request(endpoint, method="HEAD"), timeout=PROBE_SECONDS).close()
        except HTTPError:
            answer.append(None)  # It answers; what it says, loading will say better.
        except Exception as error:
            answer.append(f"{endpoint} cannot be reached ({getattr(error, 'reason', error)})")
        else:
            answer.append(None)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answer[0] if answer else f"{endpoint} did not answer in {PROBE_SECONDS:.0f} s"


def model_folder(path: str, revision: str | None, key: str) -> tuple[Path, str | None]:
    """The folder of a local path or hub id, and the hub's commit. `key` is the setting that errors name.

    The folder holds a configuration and all of the model's weights as safetensors.
    """
    local = Path(path).expanduser()
    if local.is_dir():
        folder, commit = local, None
        if not (local / "config.json").is_file():
            raise KdcError(f"{key}: {local} has no config.json", "give a folder written by save_pretrained")
    elif local.is_absolute() or path.startswith((".", "~")) or path.count("/") > 1:
        raise KdcError(f"{key}: there is no folder {path}", "give a local folder or a hub id such as owner/name")
    else:
        folder = _from_hub(path, revision, key)
        commit = folder.name
    if lacking := _lacking(folder):
        group = key.split(".")[0]
        raise KdcError(
            f"{key}: {path} has no {lacking[0]}, and kdc loads no pickled weights",
            f"convert it: AutoModel.from_pretrained(...).save_pretrained(FOLDER), then {group}.path=FOLDER"
            + (f"; or name a revision that has it: {group}.revision=refs/pr/N" if commit else ""),
        )
    return folder, commit


@cache
def _from_hub(path: str, revision: str | None, key: str) -> Path:
    """The snapshot of a hub id: one commit for a whole process, so that what was keyed is what is loaded."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    group = key.split(".")[0]
    why = unreachable()
    try:
        folder = Path(snapshot_download(path, revision=revision, allow_patterns=NEEDED, local_files_only=bool(why)))
    except HFValidationError as error:
        raise KdcError(
            f"{key}: '{path}' is neither a folder nor a hub id", "give a local folder or a hub id such as owner/name"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        if why:
            raise _not_cached(path, key, f"is not in the hub cache and {why}") from error
        first_line = str(error).strip().splitlines()[0]
        raise KdcError(
            f"{key}: cannot get model '{path}' from the hub ({first_line})",
            f"check the name, or set {group}.path= to a local folder",
            exit_code=1,
        ) from error
    if why and (lacking := _lacking(folder)):
        raise _not_cached(path, key, f"is not in the hub cache as a whole ({lacking[0]} is missing) and {why}")
    return folder


def _not_cached(path: str, key: str, what: str) -> KdcError:
    group = key.split(".")[0]
    return KdcError(
        f"{key}: model '{path}' {what}",
        f"set {group}.path= to a local folder, fill the hub cache on a machine with a network, "
        f"or choose another: kdc list {group}",
        exit_code=1,
    )


def _lacking(folder: Path) -> list[str]:
    """Those of the model's configuration and safetensors, all shards of its index, that the folder does not hold."""
    index = folder / f"{WEIGHTS}.index.json"
    weights = [WEIGHTS]
    if index.is_file() and not (folder / WEIGHTS).is_file():
        try:
            weights = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise KdcError(f"{index} is damaged ({type(error).__name__})", "get the checkpoint again") from error
    return [name for name in ("config.json", *weights) if not (folder / name).is_file()]
