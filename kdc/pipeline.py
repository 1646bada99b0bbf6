"""The run, stage after stage: data, teacher, student, passes, export, quality, latency, report.

What is computed lives in `stages`; here stands the order, the record, and what happens when something fails.
"""

from __future__ import annotations

import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from kdc import distributed, machine, stages, walk
from kdc import record as records
from kdc.arrangement import Arm
from kdc.compress.order import odd
from kdc.errors import in_one_line
from kdc.measure.slices import cut
from kdc.record import RunRecord
from kdc.screen import Screen
from kdc.stages import ARTIFACT, MODEL, Data, Step, World
from kdc.store import Published, Store
from kdc.timing import Untimed, time_runs
from kdc.walk import Point, Variant
from kdc.worth import measure_worth

if TYPE_CHECKING:
    from kdc.config import RunConfig


def run_pipeline(
    config: RunConfig,
    folder: Path,
    *,
    command: str,
    overrides: Sequence[str],
    time_later: Callable[[Untimed], None] | None = None,
) -> RunRecord:
    """One run into `folder`: everything measured and written, or a failed record and the error raised again.

    A sweep takes the timing upon itself: `time_later` is handed what that needs, and nothing is timed or printed here.
    A dry run prints its plan, and neither writes nor measures.
    """
    run = _Run.start(config, folder, command=command, overrides=overrides)
    if config.dry_run:
        run.print_plan()
        return run.record
    with run.recorded():
        data = run.load_data()
        points, arms = run.make_models(data)
        distributed.leave()
        variants = run.export_variants(points, data)
        run.measure_quality(variants, data)
        measure_worth(run.record, arms, variants, data, run.world, run._publish)
        waiting = Untimed.of(run.record, folder, config, data.splits["test"])
        if time_later is None:
            run.measure_latency(waiting)
    if time_later is None:
        run.print_report()
    else:
        time_later(waiting)
    return run.record


def take_part(config: RunConfig) -> None:
    """What the other processes of a run under torchrun have in it: its data, and their share of every training."""
    if config.dry_run:
        return
    world = World(Store(config.cache_dir), Screen(), tuple(config.plugins))
    splits, *_ = stages.loaded(config.dataset, config.data_dir, config.seed, config.report.slices, world)
    walk.models(config, stages.described(config.dataset, splits), world, lambda label, make: world.run(make()))
    distributed.leave()


@dataclass
class _Run:
    config: RunConfig
    folder: Path
    record: RunRecord
    world: World
    started: float = field(default_factory=time.perf_counter)

    @classmethod
    def start(cls, config: RunConfig, folder: Path, *, command: str, overrides: Sequence[str]) -> _Run:
        new = RunRecord(
            run=records.Run(
                id=uuid.uuid4().hex[:12],
                name=config.name,
                command=command,
                overrides=list(overrides),
                started_at=datetime.now(UTC).isoformat(timespec="seconds"),
                seed=config.seed,
                git=_git_commit(),
            ),
            environment=machine.environment(),
            config=config.model_dump(mode="json"),
        )
        screen = Screen(logged=not config.dry_run)
        world = World(Store(config.cache_dir), screen, tuple(config.plugins), folder / "tracking")
        return cls(config, folder, new, world)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """The record stands on disk from the first moment, and says how the run ended."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = yaml.safe_dump(self.record.config, sort_keys=False, allow_unicode=True)
        (self.folder / "config.yaml").write_text(config, encoding="utf-8")
        self.record.save(self.folder / "record.json")
        try:
            with distributed.together():
                yield
            self.record.run.status = "ok"
            self.record.run.failed_stage = None
        except BaseException as error:
            self.record.run.status = "failed"
            self.record.run.error = in_one_line(error)
            raise
        finally:
            self.record.run.wall_seconds = round(time.perf_counter() - self.started, 3)
            from kdc.report.pages import save_run

            save_run(self.record, self.folder)

    @contextmanager
    def _stage(self, name: str) -> Iterator[records.Stage]:
        """A line in the ledger, and the name to blame if the block fails."""
        self.record.run.failed_stage = name
        self.record.save(self.folder / "record.json")  # a run that is killed cannot say where
        started = time.perf_counter()
        entry = records.Stage(name=name, key="", cached=False, wall_seconds=0.0)
        yield entry
        entry.wall_seconds = round(time.perf_counter() - started, 3)
        self.record.stages.append(entry)
        how = "reused" if entry.cached else f"{entry.wall_seconds:.1f} s"
        self.world.screen.say(f"  {name:<34} {how}", style="dim" if entry.cached else "")

    def _publish(self, label: str, make: Any) -> Published:
        """Make a step, run it and enter it in the ledger. `make()` is within the stage, so that its errors are too."""
        with self._stage(label) as entry:
            step: Step = make()
            published = self.world.run(step)
            entry.key, entry.cached = published.key, published.cached
            if (published.path / stages.SUMMARY).exists():
                said = stages.summary(published)
                entry.train = records.Train(**said["train"]) if said.get("train") else None
                entry.notes = said.get("notes", [])
        return published

    def print_plan(self) -> None:
        from rich.console import Console

        from kdc import dry_run

        Console().print(dry_run.table(dry_run.plan(self.config, self.world)))

    # The stages, in order

    def load_data(self) -> Data:
        config = self.config
        with self._stage("data") as entry:
            slices = config.report.slices
            splits, report, published = stages.loaded(config.dataset, config.data_dir, config.seed, slices, self.world)
            entry.key = published.key if published else report.fingerprint
            entry.cached = published is not None and published.cached
            data = stages.described(config.dataset, splits)
            cut(data.task, data.splits["test"], slices)  # what is wrong with a slice is said before anything is trained
        self.record.dataset = records.Dataset(
            name=report.name,
            fingerprint=report.fingerprint,
            splits=report.splits,
            labels=list(report.labels),
            overlap=report.overlap,
        )
        self.record.notes += report.notes
        rows = ", ".join(f"{rows:,} {split}" for split, rows in report.splits.items())
        self.world.screen.say(f"  {report.name}: {rows}; {len(report.labels)} labels")
        return data

    def make_models(self, data: Data) -> tuple[list[Point], list[Arm]]:
        self.record.notes += odd(self.config.compress)
        for key, step in self.config.compress.items():
            self.record.notes += [f"compress.{key}: {said}" for said in step.remarks()]
        points, arms = walk.models(self.config, data, self.world, self._publish)
        for number, point in enumerate(points):
            if number == 0 or point.model != points[number - 1].model:
                _link(self.folder / "models" / point.name, point.model.path / MODEL)
        return points, arms

    def export_variants(self, points: Sequence[Point], data: Data) -> list[Variant]:
        cells, notes = walk.cells(self.config, points)
        self.record.notes += notes
        variants: list[Variant] = []
        unfit: dict[str, Exception] = {}
        """Runtimes that do not hold the teacher, so that no gain in them could be told from their own."""
        for point, group in groupby(cells, key=lambda cell: cell[0]):
            errors = []
            before = len(variants)
            for _, runtime in group:
                if runtime.name in unfit:
                    errors.append(unfit[runtime.name])
                    continue
                try:
                    variant = walk.export(point, runtime, data, self.world, self._publish)
                except (OSError, MemoryError):  # says nothing of the runtime
                    raise
                except Exception as error:  # whatever a compiler raises: with runtime=auto, another takes its place
                    if not variants or runtime.name not in self.config.optional_runtimes:
                        raise
                    errors.append(error)
                    if point is points[0]:
                        unfit[runtime.name] = error
                    self._note(f"{point.name}: {runtime.name} is left out: {in_one_line(error)}")
                    continue
                variants.append(variant)
                self.record.variants.append(self._describe(variant))
            if len(variants) == before and errors:
                raise errors[-1]
        self.record.baseline = variants[0].name
        return variants

    def _note(self, said: str) -> None:
        self.record.notes.append(said)
        self.world.screen.say(f"  {said}")

    def _describe(self, variant: Variant) -> records.Variant:
        from kdc.measure.size import artifact_size

        target = self.folder / "artifacts" / variant.name
        shutil.copytree(variant.artifact.path / ARTIFACT, target)
        seen = stages.summary(variant.artifact)
        return records.Variant(
            name=variant.name,
            stage=variant.point.name,
            parents=list(variant.point.parents),
            runtime=variant.runtime.name,
            precision=seen["precision"],
            artifact=artifact_size(target, path=str(target.relative_to(self.folder))),
            parameters=records.Count(**seen["parameters"]),
            macs=records.MacsCount(**seen["macs"]),
            kernels=records.KernelCount(**seen["kernels"]),
            fidelity=seen["fidelity"],
            excluded=seen["excluded"],
        )

    def measure_quality(self, variants: Sequence[Variant], data: Data) -> None:
        """The same test rows for all, through the artifacts themselves; against the teacher and the step before."""
        from kdc.evaluate import evaluate

        (self.folder / "predictions").mkdir()
        evaluate(self.record, self.config, variants, data, self._publish, folder=self.folder / "predictions")

    def measure_latency(self, run: Untimed) -> None:
        """All variants together, in fresh processes; ratios are against the teacher in torch and in each runtime."""
        with self._stage("latency"):
            time_runs([run], self.world.screen)

    def print_report(self) -> None:
        from rich.console import Console

        from kdc.report.console import print_report

        print_report(self.record, Console(), report=self.folder / "report.html")


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(target, target_is_directory=True)


def _git_commit() -> str | None:
    """The commit of the folder that the user works in, for a run's provenance; None outside git, or without it."""
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run([git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
