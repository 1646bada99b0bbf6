"""Where configurations live, what there is to choose, and Hydra's composition of it all.

What is composed here is still untyped: `kdc.config` turns it into a `RunConfig`. Hydra is imported inside functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdc.errors import KdcError, did_you_mean

if TYPE_CHECKING:
    from omegaconf import DictConfig

GROUPS = ("teacher", "student", "loss", "compress", "dataset", "runtime", "train", "bench", "experiment")
LISTED = (*GROUPS, "gate")
"""What there is to choose from: rules of a gate are chosen by `kdc gate --rules` and are no part of a run."""
LISTS = frozenset({"loss", "compress", "runtime", "experiment"})
"""Groups of which several choices can be taken, in order."""


def config_dir() -> Path:
    """The shipped configurations: inside the package once it is installed, beside it in a checkout."""
    packaged = Path(__file__).parent / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / "configs"


def choices(group: str, extra: Path | None = None) -> dict[str, str]:
    """The choices of a group with their one-line descriptions, shipped ones first, then those of `--config-dir`."""
    if group not in LISTED:
        raise KdcError(f"no group is called '{group}'", did_you_mean(group, LISTED))
    found: dict[str, str] = {}
    for folder in [config_dir() / group] + ([extra / group] if extra is not None else []):
        for path in sorted(folder.rglob("*.yaml")):
            found[path.relative_to(folder).with_suffix("").as_posix()] = _description(path)
    return found


def defaults() -> dict[str, list[str]]:
    """What a run takes when nothing is chosen, group by group."""
    chosen: dict[str, list[str]] = {}
    for entry in _run_yaml()["defaults"]:
        for group, choice in entry.items() if isinstance(entry, dict) else ():
            if group in GROUPS:
                chosen[group] = [] if choice is None else [choice] if isinstance(choice, str) else list(choice)
    return chosen


def top_level_keys() -> list[str]:
    """The first words that a key can have: groups that hold settings, and the run's own keys."""
    own = [key for key in _run_yaml() if key not in ("defaults", "hydra")]
    return [*(group for group in GROUPS if group != "experiment"), *own]


def check_extra(folder: Path) -> None:
    """Refuse a `--config-dir` that is absent, replaces what is shipped (Hydra would ignore yours), or is broken."""
    if not folder.is_dir():
        raise KdcError(f"--config-dir: no folder '{folder}'", "name one that holds group folders, such as experiment/")
    files = [path for group in GROUPS for path in sorted((folder / group).rglob("*.yaml"))]
    for path in [folder / "run.yaml", *files]:
        if (config_dir() / path.relative_to(folder)).exists() and path.exists():
            raise KdcError(f"{path}: kdc ships a file of that name, which would win", "give yours another name")
    with readable_errors():
        for path in files:
            load_yaml(path)


def quote(text: str) -> str:
    """`text` as a string of Hydra's grammar; a leading `~/`, which shells leave alone after `=`, is the home folder."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(str(Path(text).expanduser()) if text.startswith("~/") else text, Quote.single).with_quotes()


def searchpath(folder: Path) -> str:
    """The override that makes Hydra look into `folder` too."""
    return f"hydra.searchpath=[{quote(f'file://{folder.resolve()}')}]"


def compose(overrides: Sequence[str] = (), *, extra: Path | None = None) -> DictConfig:
    """The composed configuration, not yet typed."""
    import hydra

    register_base()
    if extra is not None:
        check_extra(extra)
        overrides = [*overrides, searchpath(extra)]
    with readable_errors(), hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        return hydra.compose("run", list(overrides))


def register_base() -> None:
    """Make the `base` node: what it names is open, so that unknown keys reach our typing and its did-you-mean."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import DictConfig, OmegaConf

    opened = [*(group for group in GROUPS if group != "experiment"), "distill", "report"]
    base = {key: DictConfig({}, flags={"struct": False}) for key in opened}
    ConfigStore.instance().store("base", OmegaConf.create(base), provider="kdc")


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn what Hydra, omegaconf and the YAML parser raise into one line of ours."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import MarkedYAMLError

    try:
        yield
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{mark.name}, line {mark.line + 1}" if mark else "a configuration file"
        raise KdcError(f"{where}: {error.problem or error.context}", "correct the YAML there") from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise KdcError(one_line(error), "`kdc run --help` and `kdc list` show what there is") from error


def one_line(error: BaseException) -> str:
    """The gist of an exception whose message spans lines: its first line, after the key where omegaconf knows it."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    key = getattr(error, "full_key", None)
    cause = f" ({one_line(error.__cause__)})" if error.__cause__ is not None else ""
    return f"{key}: {first}{cause}" if key and not first.startswith(str(key)) else f"{first}{cause}"


def _description(path: Path) -> str:
    """The first comment of a file that is not a Hydra header (`# @package ...`)."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith("#"):
            break
        if not re.match(r"#\s*@", line):
            return line.lstrip("# ").strip()
    return ""


def load_yaml(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        with path.open(encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except UnicodeDecodeError as error:
        raise KdcError(f"{path}: not UTF-8 (byte {error.start})", "save it as UTF-8") from error
    if not isinstance(content, Mapping | None):
        raise KdcError(f"{path}: holds {type(content).__name__}, not keys with values", "write `key: value` lines")
    return content or {}


def _run_yaml() -> Mapping[str, Any]:
    return load_yaml(config_dir() / "run.yaml")
