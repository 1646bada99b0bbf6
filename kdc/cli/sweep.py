"""Jobs of `kdc run`, alone or in a sweep: one that fails must not end the others, and its error must not get lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdc.errors import KdcError, in_one_line

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from kdc.config import Notify
    from kdc.record import RunRecord
    from kdc.timing import Untimed


@dataclass(frozen=True)
class Outcome:
    """What became of one job."""

    overrides: list[str]
    folder: Path
    record: RunRecord | None = None
    error: Exception | None = None

    @property
    def objective(self) -> float:
        """The primary metric after the last step, for sweepers that optimize; nan where there is none.

        In the first runtime: which of several ships is known when all jobs are timed, at the sweep's end.
        """
        from kdc.report.table import primary

        variants = self.record.variants if self.record is not None else []
        last = next((variant for variant in variants if variant.stage == variants[-1].stage), None)
        return primary(last.quality)[1].value if last is not None and last.quality is not None else math.nan


def run_job(
    cfg: DictConfig,
    overrides: list[str],
    *,
    folder: Path,
    command: str,
    time_later: Callable[[Untimed], None] | None = None,
) -> Outcome:
    """Run the pipeline. It writes a failed record itself; here the error is kept for whoever asked for the job."""
    from kdc.config import to_run_config

    try:
        config = to_run_config(cfg, overrides=overrides)
        from kdc.pipeline import run_pipeline

        record = run_pipeline(config, folder, command=command, overrides=overrides, time_later=time_later)
        return Outcome(overrides, folder, record=record)
    except Exception as error:
        return Outcome(overrides, folder, error=error)
    except SystemExit as stop:  # a library that gives up must not take the other jobs with it
        return Outcome(overrides, folder, error=RuntimeError(f"a library ended the job (exit code {stop.code})"))


def task_words(hydra: Any) -> list[str]:
    """The overrides of a run or a sweep as they were given: iterating Hydra's own list would resolve their `${}`."""
    from omegaconf import OmegaConf

    words = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    return [str(word) for word in words] if isinstance(words, list) else []


def jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of every job that Hydra's own sweeper will start, in its order."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(task_words(config.hydra))
    return [list(job) for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]


def check_jobs(config: DictConfig, notify: Notify) -> None:
    """Type every job of a sweep before the first starts; what is wrong with all of them is said once."""
    from hydra.core.global_hydra import GlobalHydra

    from kdc.compose import readable_errors
    from kdc.config import to_run_config, without_hydra

    loader = GlobalHydra.instance().config_loader()
    planned = jobs(config)
    refused: dict[str, list[str]] = {}
    notes: dict[str, None] = {}
    for number, words in enumerate(planned, 1):
        try:
            with readable_errors():
                composed = loader.load_sweep_config(config, words)
            to_run_config(without_hydra(composed), overrides=words, notify=notes.setdefault)
        except KdcError as error:
            refused.setdefault(str(error), []).append(f"job {number} ({' '.join(words)})")
    for note in notes:
        notify(note)
    lines = [
        problem if len(where) == len(planned) else f"{where[0]}{_more(where)}: {problem}"
        for problem, where in refused.items()
    ]
    if lines:
        raise KdcError("\n  ".join(["the sweep was not started:", *lines]) if len(lines) > 1 else lines[0])


def time_jobs(waiting: Sequence[Untimed]) -> None:
    """Time the artifacts of all jobs in common rounds, now that nothing trains any more, and complete their records.

    What keeps them from being timed is noted in the records of all that were not before it is raised: their quality
    stands, and so does the latency of those that were timed before.
    """
    from kdc.record import Stage
    from kdc.report.pages import save_run
    from kdc.screen import Screen
    from kdc.timing import time_runs

    try:
        time_runs(waiting, Screen())
    except BaseException as error:
        for run in waiting:
            if run.record.timing is None:
                run.record.notes.append(f"not timed: {in_one_line(error)}")
        raise
    finally:
        for run in waiting:
            if timing := run.record.timing:
                run.record.stages.append(Stage(name="latency", key="", cached=False, wall_seconds=timing.wall_seconds))
            save_run(run.record, run.folder)


def summarize(outcomes: Sequence[Outcome], folder: Path) -> None:
    """The sweep's pages and leaderboard, where a job left a record: without one there is nothing to show."""
    from rich.console import Console

    from kdc.report.leaderboard import print_leaderboard, read_sweep
    from kdc.report.sweep import write_sweep_report

    if any((outcome.folder / "record.json").exists() for outcome in outcomes):
        records = read_sweep(folder)
        write_sweep_report(folder, records)
        print_leaderboard(records, Console(), report=folder / "report.html")


def _more(where: Sequence[str]) -> str:
    return f" and {len(where) - 1} more" if len(where) > 1 else ""
