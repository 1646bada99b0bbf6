"""`kdc doctor`: what this machine can do, what is missing and how to get it. Exit code 1 if a run cannot work."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kdc import __version__, machine
from kdc.cli.cache import readable
from kdc.store import Store, default_root

SUMMARY = "what this machine can do, what is missing and how to get it"
EXAMPLES = """examples:
  kdc doctor
  kdc doctor --json > machine.json
"""

HUB_VARIABLES = ("HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
LOW_DISK = 5 * 10**9


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.epilog = EXAMPLES
    parser.add_argument("--cache-dir", type=Path, help="the store to look at (default: KDC_CACHE or ~/.cache/kdc)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def execute(args: argparse.Namespace) -> int:
    found = examine(args.cache_dir or default_root())
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        _show(found)
    return 1 if found["problems"] else 0


def examine(cache_dir: Path) -> dict[str, Any]:
    """Everything doctor knows, as JSON. `problems` stop a run, `hints` would make it better; each has its remedy."""
    found: dict[str, Any] = {
        "kdc": __version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "cpu": machine.cpu().model_dump(),
        "int8_dot": machine.has_int8_dot(),
        "bf16": machine.has_bf16(),
        "threads": machine.threads(),
        "memory_bytes": machine.memory_bytes(),
        "gpus": machine.gpus(),
        "packages": machine.packages(),
        "runtimes": _runtimes(),
        "cache": _cache(cache_dir),
        "hub": _hub(),
    }
    return found | {"problems": _problems(found), "hints": _hints(found)}


def _runtimes() -> list[dict[str, Any]]:
    from kdc.export.base import RUNTIMES

    return [
        {
            "name": name,
            "precisions": sorted(runtime.precisions),
            "packages": {package: _version(package) for package in runtime.packages},
        }
        for name, runtime in RUNTIMES.items()
    ]


def _cache(folder: Path) -> dict[str, Any]:
    store = Store(folder)
    entries = store.entries()
    place = next(place for place in (store.root, *store.root.parents) if place.exists())
    return {
        "path": str(store.root),
        "stages": sum(not entry.unfinished for entry in entries),
        "bytes": sum(entry.bytes for entry in entries),
        "free_bytes": shutil.disk_usage(place).free,
        "writable": place.is_dir() and os.access(place, os.W_OK | os.X_OK),
    }


def _hub() -> dict[str, Any]:
    from huggingface_hub import constants, get_token

    from kdc.hub import unreachable

    spelled = {name: os.environ.get(name) or os.environ.get(name.lower()) for name in HUB_VARIABLES}
    settings = {name: _without_password(value) for name, value in spelled.items() if value}
    return {
        "reachable": unreachable() is None,
        "offline": constants.HF_HUB_OFFLINE,
        "settings": settings,
        "token": get_token() is not None,
    }


def _without_password(value: str) -> str:
    """A proxy's address may hold a password, and what doctor prints goes into bug reports."""
    secret, at, _ = urlsplit(value).netloc.rpartition("@")
    return value.replace(secret + at, "***@", 1) if secret else value


def _problems(found: dict[str, Any]) -> list[dict[str, str]]:
    problems = [{"what": what, "remedy": remedy} for what, remedy in _unmet(extra=None)]
    if not found["cache"]["writable"]:
        remedy = "choose another place with cache_dir= or KDC_CACHE"
        problems.append({"what": f"the cache {found['cache']['path']} cannot be written", "remedy": remedy})
    if not any(all(runtime["packages"].values()) for runtime in found["runtimes"]):
        problems.append({"what": "no runtime has all of its packages", "remedy": "pip install onnxruntime"})
    return problems


def _hints(found: dict[str, Any]) -> list[dict[str, str]]:
    hints = []
    if _version("kdc") is None:
        hints.append(("kdc runs from its sources, so its requirements are not checked", "pip install -e ."))
    for extra in _extras():
        hints += [(f"{what} (optional)", f"pip install 'kdc[{extra}]'") for what, _ in _unmet(extra=extra)]
    if not found["int8_dot"]:
        hints.append(
            (
                "the processor has no int8 dot product (AVX512-VNNI, AVX-VNNI, AMX, Arm dotprod): int8 gains little "
                "speed here, and weights are kept to 7 bits",
                "measure on the machine that will serve" + (", or compress=bf16" if found["bf16"] else ""),
            )
        )
    if found["gpus"] and "+cpu" in (found["packages"].get("torch") or ""):
        hints.append(("there is a GPU, but this torch is built for the CPU only", "https://pytorch.org/get-started"))
    if found["cache"]["free_bytes"] < LOW_DISK:
        hints.append(
            (f"only {readable(found['cache']['free_bytes'])} are free for the cache", "kdc cache prune, or cache_dir=")
        )
    if not found["hub"]["reachable"]:
        switched_off = "the model hub is switched off by HF_HUB_OFFLINE"
        why = switched_off if found["hub"]["offline"] else "the model hub cannot be reached"
        hints.append((f"{why}: only models in its cache and local ones load", "teacher.path=, data_dir=, HF_ENDPOINT="))
    return [{"what": what, "remedy": remedy} for what, remedy in hints]


def _extras() -> list[str]:
    """The optional parts of kdc, those for its own development aside."""
    if _version("kdc") is None:
        return []
    return [extra for extra in metadata.metadata("kdc").get_all("Provides-Extra") or [] if extra != "dev"]


def _unmet(*, extra: str | None) -> list[tuple[str, str]]:
    """Requirements of kdc (of one extra, or those without one) that are not met: what, and how to get it."""
    from packaging.requirements import Requirement

    if _version("kdc") is None:
        return []
    unmet = []
    for requirement in map(Requirement, metadata.requires("kdc") or []):
        marker = requirement.marker
        always = marker is None or marker.evaluate({"extra": ""})
        wanted = always if extra is None else not always and marker is not None and marker.evaluate({"extra": extra})
        version = _version(requirement.name)
        if wanted and version is None:
            unmet.append((f"{requirement.name} is not installed", f"pip install '{requirement.name}'"))
        elif wanted and not requirement.specifier.contains(version or "", prereleases=True):
            text = f"{requirement.name}{requirement.specifier}"
            unmet.append((f"{requirement.name} {version} is installed, {text} is needed", f"pip install '{text}'"))
    return unmet


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    sections: dict[str, list[tuple[str, str]]] = {
        "machine": _machine_rows(found),
        "runtimes": [
            (runtime["name"], f"{', '.join(runtime['precisions'])}   {_versions(runtime['packages'])}")
            for runtime in found["runtimes"]
        ],
        "cache": [
            ("place", found["cache"]["path"]),
            ("holds", f"{found['cache']['stages']} stages, {readable(found['cache']['bytes'])}"),
            ("free", readable(found["cache"]["free_bytes"])),
        ],
        "hub": [
            ("reachable", "yes" if found["hub"]["reachable"] else "no"),
            ("token", "set" if found["hub"]["token"] else "none"),
            *found["hub"]["settings"].items(),
        ],
    }
    for title, rows in sections.items():
        table = Table.grid(padding=(0, 2))
        table.add_column(min_width=14, style="dim")
        table.add_column()
        for row in rows:
            table.add_row(f"  {escape(row[0])}", escape(row[1]))
        console.print(f"[bold]{title}[/bold]")
        console.print(table)
    for kind, style in (("problems", "red"), ("hints", "yellow")):
        for item in found[kind]:
            text = f"{escape(item['what'])}; [bold]{escape(item['remedy'])}[/bold]"
            console.print(f"[{style}]{kind[:-1]}:[/{style}] {text}", soft_wrap=True)
    if not found["problems"]:
        console.print("[green]ready:[/green] kdc run works here", soft_wrap=True)


def _machine_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    cpu, packages = found["cpu"], found["packages"]
    gpus = [
        f"{gpu['name']}" + (f", {readable(gpu['memory_bytes'])}" if gpu["memory_bytes"] else "")
        for gpu in found["gpus"]
    ]
    return [
        ("kdc", f"{found['kdc']} on Python {found['python']}, {found['system']}"),
        ("processor", f"{cpu['model']}, {cpu['cores']} cores, {found['threads']} threads may be used"),
        ("features", " ".join(cpu["flags"]) or "none of those that matter"),
        ("int8", "fast: has a dot product" if found["int8_dot"] else "slow: has no dot product"),
        ("bf16", "in hardware" if found["bf16"] else "not in hardware"),
        ("memory", readable(found["memory_bytes"])),
        ("GPUs", "; ".join(gpus) or "none"),
        ("packages", _versions({name: packages.get(name) for name in ("torch", "transformers", "datasets")})),
    ]


def _versions(packages: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {version or 'missing'}" for name, version in packages.items())
