"""Jobs of `kdc run`, alone or in a sweep: one that fails must not end the others, and its error must not get lost."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdc.cli.main import describe
from kdc.errors import KdcError

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.table import Table

    from kdc.config import Notify
    from kdc.record import RunRecord

RIGHT = frozenset({"job", "quality", "retained", "size", "p50 ms", "speed-up"})


@dataclass(frozen=True)
class Outcome:
    """What became of one job."""

    overrides: list[str]
    folder: Path
    record: RunRecord | None = None
    error: Exception | None = None

    @property
    def objective(self) -> float:
        """The last variant's primary metric, for sweepers that optimize; nan where there is none."""
        from kdc.report.table import primary

        quality = self.record.variants[-1].quality if self.record is not None and self.record.variants else None
        return math.nan if quality is None else primary(quality)[1].value


def run_job(cfg: DictConfig, overrides: list[str], *, folder: Path, command: str) -> Outcome:
    """Run the pipeline. It writes a failed record itself; here the error is kept for whoever asked for the job."""
    from kdc.config import to_run_config

    try:
        config = to_run_config(cfg, overrides=overrides)
        from kdc.pipeline import run_pipeline

        return Outcome(
            overrides, folder, record=run_pipeline(config, folder=folder, command=command, overrides=overrides)
        )
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


def summarize(outcomes: Sequence[Outcome]) -> None:
    """The table of all jobs on stdout, then the errors in full: a table's column is too narrow for them."""
    from rich.console import Console

    console = Console()
    console.print(_table(outcomes))
    for number, outcome in enumerate(outcomes, 1):
        if outcome.error is not None:
            print(f"job {number} ({' '.join(outcome.overrides)}) failed: {describe(outcome.error)}", file=sys.stderr)


def _table(outcomes: Sequence[Outcome]) -> Table:
    from rich import box
    from rich.table import Table

    from kdc.report.table import MISSING, first_workload, latency_at, primary, score, significant, size, times, versus

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="every job by its last variant", title_justify="left")
    words = [outcome.overrides for outcome in outcomes]
    common = set.intersection(*map(set, words)) if len(words) > 1 else set()
    for header in ("job", "overrides", "status", "quality", "retained", "size", "p50 ms", "speed-up"):
        table.add_column(
            header, justify="right" if header in RIGHT else "left", no_wrap=header in RIGHT, overflow="fold"
        )
    for number, outcome in enumerate(outcomes, 1):
        record = outcome.record
        variant = record.variants[-1] if record is not None and record.variants else None
        cells = [MISSING] * 5
        if record is not None and variant is not None:
            latency = latency_at(variant, first_workload(record))
            faster = versus(latency, record.baseline)
            cells = [
                score(primary(variant.quality)[0], primary(variant.quality)[1].value) if variant.quality else MISSING,
                f"{variant.quality.retained:.1%}" if variant.quality and variant.quality.retained else MISSING,
                size(variant.artifact.bytes) if variant.artifact else MISSING,
                significant(latency.p50_ms) if latency else MISSING,
                times(faster.ratio) if faster else MISSING,
            ]
        own = "\n".join(word for word in outcome.overrides if word not in common)
        table.add_row(str(number), own, "failed" if outcome.error else "ok", *cells)
    return table


def _more(where: Sequence[str]) -> str:
    return f" and {len(where) - 1} more" if len(where) > 1 else ""
