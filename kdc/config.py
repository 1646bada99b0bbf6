"""From a composed configuration to the frozen `RunConfig` that the pipeline reads: nothing below it knows omegaconf.

All problems are collected and reported together, each with its dotted key. Components of a family (passes, runtimes,
loss terms) are told apart by `name` and looked up in their registry, after the plugins are in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
)

from kdc.compose import GROUPS, choices, compose, config_dir, one_line
from kdc.compress.base import PASSES, Pass
from kdc.data.config import DatasetConfig, dataset_config_model
from kdc.distill.settings import DistillConfig, TrainConfig
from kdc.distill.terms.base import TERMS, Term
from kdc.errors import KdcError, did_you_mean
from kdc.export.base import RUNTIMES, Runtime
from kdc.measure.settings import BenchConfig
from kdc.models.spec import StudentConfig, TeacherConfig
from kdc.problems import problems_of
from kdc.registry import Component, Registry, load_plugins
from kdc.report.settings import ReportConfig

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["LossConfig", "RunConfig", "compose", "config_dir", "to_run_config"]


def _folder_name(name: str) -> str:
    if re.fullmatch(r"[\w.+-]+", name) is None:
        raise ValueError(f"names a folder: letters, digits, '.', '_', '+' and '-' only (got '{name}')")
    return name


FolderName = Annotated[str, Field(coerce_numbers_to_str=True), AfterValidator(_folder_name)]
Folder = Annotated[Path, BeforeValidator(lambda path: Path(path).expanduser() if isinstance(path, str) else path)]
Notify = Callable[[str], None]
AUTO = "auto"
"""Chosen as a runtime: all of them that this machine can run."""
M = TypeVar("M", bound=BaseModel)
C = TypeVar("C", bound=Component)


class LossConfig(Component):
    """The weighted terms of the distillation loss, in order."""

    name: str
    terms: dict[str, SerializeAsAny[Term]]


class RunConfig(Component):
    """Everything a run is told, typed."""

    name: FolderName
    seed: NonNegativeInt
    seeds: PositiveInt
    control: bool
    plugins: list[str]
    data_dir: Folder | None
    cache_dir: Folder
    dry_run: bool
    teacher: TeacherConfig
    student: StudentConfig | None
    loss: LossConfig
    compress: dict[str, SerializeAsAny[Pass]]
    dataset: SerializeAsAny[DatasetConfig]
    runtime: dict[str, SerializeAsAny[Runtime]] = Field(min_length=1)
    optional_runtimes: tuple[str, ...] = ()
    """Those of `runtime=auto`: one that cannot hold the model is left out."""
    train: TrainConfig
    distill: DistillConfig
    bench: BenchConfig
    report: ReportConfig


def to_run_config(cfg: DictConfig, *, overrides: Sequence[str] = (), notify: Notify | None = None) -> RunConfig:
    """Resolve, import plugins, type, cross-check. One `KdcError` lists every problem.

    `overrides` are the command line's words: settings of an entry that was not chosen are an error there, and a note
    (through `notify`) when an experiment left them behind.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    from kdc.checks import cross_check

    try:
        data = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise KdcError(f"{error.full_key}: has no value yet", "give it one") from error
    except OmegaConfBaseException as error:
        raise KdcError(one_line(error), "correct the ${...} there") from error
    typing = _Typing(overrides, notify or (lambda note: None))
    config = typing.run({str(key): value for key, value in data.items()} if isinstance(data, dict) else {})
    problems = typing.problems if config is None else [*typing.problems, *cross_check(config)]
    if len(problems) == 1:
        raise KdcError(problems[0])
    if problems or config is None:
        raise KdcError("\n  ".join([f"{len(problems)} problems in the configuration:", *problems]))
    return config


def without_hydra(cfg: DictConfig) -> DictConfig:
    """The job's part of what Hydra composed."""
    from omegaconf import OmegaConf

    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


class _Typing:
    """One pass over the plain data: what it makes is returned, what it dislikes gathers in `problems`."""

    def __init__(self, overrides: Sequence[str], notify: Notify) -> None:
        self.problems: list[str] = []
        self._overrides = [word.lstrip("+~") for word in overrides]
        self._notify = notify

    def run(self, data: Mapping[str, Any]) -> RunConfig | None:
        plugins = data.get("plugins")
        if isinstance(plugins, list) and all(isinstance(module, str) for module in plugins):
            load_plugins(plugins)
        runtimes, optional = self._installed(data.get("runtime"))
        typed = {
            "teacher": self._model(TeacherConfig, data.get("teacher"), "teacher"),
            "student": self._student(data.get("student")),
            "loss": self._loss(data.get("loss")),
            "compress": self._family(PASSES, data.get("compress"), "compress"),
            "dataset": self._model(dataset_config_model(), data.get("dataset"), "dataset"),
            "runtime": self._family(RUNTIMES, runtimes, "runtime"),
            "train": self._model(TrainConfig, data.get("train"), "train"),
            "distill": self._model(DistillConfig, data.get("distill"), "distill"),
            "bench": self._model(BenchConfig, data.get("bench"), "bench"),
            "report": self._model(ReportConfig, data.get("report"), "report"),
        }
        told = frozenset(key for key in typed if any(re.match(rf"{key}\b", problem) for problem in self.problems))
        if "optional_runtimes" in data:
            self.problems.append(f"optional_runtimes: no such key; choose runtime={AUTO}")
        whole = {key: value for key, value in {**data, **typed}.items() if key not in told}
        whole["optional_runtimes"] = optional
        return self._model(RunConfig, whole, "", told)

    def _model(self, model: type[M], raw: Any, where: str, told: frozenset[str] = frozenset()) -> M | None:
        """`raw` as a `model`, or None with its problems noted; keys that were `told` of before are passed over."""
        try:
            return model.model_validate({} if raw is None else raw)
        except ValidationError as error:
            for key, problem in problems_of(error, model, raw, where):
                if key.partition(".")[0] not in told:
                    self.problems.append(f"{key}: {problem}")
        return None

    def _installed(self, raw: Any) -> tuple[Any, tuple[str, ...]]:
        """`runtime=auto` as the runtimes that this machine can run and that are not chosen by name; and their names.

        Settings that stand under the name of one are its own.
        """
        if not isinstance(raw, Mapping) or raw.get(AUTO) is None:
            return raw, ()
        others = {key: entry for key, entry in raw.items() if key != AUTO}
        if not isinstance(raw[AUTO], Mapping) or raw[AUTO].get("name") != AUTO:
            self.problems.append(f"runtime.{AUTO}: choose it: runtime={AUTO} (got {raw[AUTO]!r})")
            return others, ()
        self._unchosen(f"runtime.{AUTO}", [key for key in raw[AUTO] if key != "name"], f"{AUTO} has no settings")
        named = {entry["name"] for entry in others.values() if isinstance(entry, Mapping) and "name" in entry}
        found: dict[str, Any] = {}
        for name, runtime in sorted(RUNTIMES.items()):  # in whatever order they were imported
            settings = others.get(name, {})
            if name in named or not isinstance(settings, Mapping):  # chosen by name, or switched off
                continue
            entry = {"name": name, **settings}
            if problem := self._no_use(runtime, entry):
                self._notify(f"runtime={AUTO} leaves {name} out: {problem}")
            else:
                found[name] = entry
        return {**others, **found}, tuple(found)

    def _no_use(self, runtime: type[Runtime], entry: Mapping[str, Any]) -> str | None:
        """Why a runtime is not taken here; None where it is, or where its settings are told to be wrong later."""
        from kdc.checks import unusable

        try:
            return unusable(runtime.model_validate(entry))
        except ValidationError:
            return None if set(entry) - {"name"} else "it has settings that must be given"

    def _student(self, raw: Any) -> StudentConfig | None:
        if isinstance(raw, Mapping) and raw.get("name") == "none":
            self._unchosen("student", [key for key in raw if key != "name"], "student=none has no settings")
            return None
        return self._model(StudentConfig, raw, "student")

    def _loss(self, raw: Any) -> LossConfig | None:
        if not isinstance(raw, Mapping) or "terms" not in raw:
            return self._model(LossConfig, raw, "loss")
        terms = self._family(TERMS, raw["terms"], "loss.terms")
        return None if terms is None else self._model(LossConfig, {**raw, "terms": terms}, "loss")

    def _family(self, registry: Registry[C], raw: Any, where: str) -> dict[str, C] | None:
        """The chosen entries of an ordered mapping: `null` switches one off, `name` says which component it is."""
        if not isinstance(raw, Mapping):
            self.problems.append(f"{where}: must be a mapping of names to settings (got {raw!r})")
            return None
        before, found = len(self.problems), {}
        for key, settings in raw.items():
            if settings is None:
                continue
            if not isinstance(settings, Mapping):
                self.problems.append(f"{where}.{key}: must be settings or null (got {settings!r})")
            elif "name" not in settings:
                known = {*registry, *(choices(where) if where in GROUPS else ())}
                chosen = [name for name, entry in raw.items() if isinstance(entry, Mapping) and "name" in entry]
                remedy = f"choose it: {where}='[{','.join([*chosen, key])}]'" if where in GROUPS else "give it a name"
                why = f"'{key}' is not chosen; {remedy if key in known else did_you_mean(key, known)}"
                self._unchosen(f"{where}.{key}", list(settings), why, misspelt=key not in known)
            elif settings["name"] not in registry:
                hint = did_you_mean(str(settings["name"]), registry)
                self.problems.append(f"{where}.{key}.name: no {registry.family} is called '{settings['name']}'; {hint}")
            elif (entry := self._model(registry[settings["name"]], settings, f"{where}.{key}")) is not None:
                found[str(key)] = entry
        return found if len(self.problems) == before else None

    def _unchosen(self, where: str, settings: Sequence[str], why: str, *, misspelt: bool = False) -> None:
        for key in settings:
            if misspelt or any(re.match(rf"{re.escape(f'{where}.{key}')}[.=]", word) for word in self._overrides):
                self.problems.append(f"{where}.{key}: {why}")
            else:
                self._notify(f"{where}.{key} is ignored: {why}")
