"""`kdc run`: Hydra composes, kdc types and checks, the pipeline does the work.

Everything that can be refused is refused before an output folder exists: Hydra calls `CheckFirst` once it has composed
a run, or a whole sweep, and before it makes a folder for it.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdc import distributed
from kdc.cli.list import plain_groups
from kdc.compose import check_extra, config_dir, quote, readable_errors, register_base, searchpath
from kdc.errors import KdcError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from kdc.timing import Untimed

SUMMARY = "distill, compress, export, measure and report"
EPILOG = """examples:
  kdc run                                                    the embedded default: no download needed
  kdc run teacher=bert student=distilbert compress=int8
  kdc run dataset=csv dataset.files.train=mine.csv teacher=minilm student=layers student.layers=3
  kdc run 'compress=[int8]' 'runtime=[torch,onnxruntime]'    quote every bracket
  kdc run loss.terms.hard=null                               null switches an entry off
  kdc run -m compress=none,int8 student.layers=2,3           a sweep: every combination
  kdc run dry_run=true                                       what would be done, and what is cached already

groups (* is taken when nothing is chosen; `kdc list GROUP` describes them):
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="a choice (teacher=bert) or a setting")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("-m", "--multirun", action="store_true", help="comma-separated values make a sweep")
    one.add_argument("-c", "--cfg", choices=["job", "hydra", "all"], help="print the composed config and stop")
    parser.add_argument("--resolve", action="store_true", help="with --cfg: resolve ${...} first")
    parser.add_argument("-p", "--package", metavar="KEY", help="with --cfg: print only what is under this key")
    parser.add_argument("-cd", "--config-dir", type=Path, metavar="DIR", help="choices of your own, by group folder")
    parser.usage = "kdc run [KEY=VALUE ...] [-m] [--cfg job] [--config-dir DIR]"
    parser.epilog = EPILOG + plain_groups()


def execute(args: argparse.Namespace) -> int:
    """Under torchrun rank 0 runs what is asked; the others help it to train, without a word and without a folder."""
    if distributed.world_size() == 1:
        return _execute(args)
    if "MASTER_ADDR" not in os.environ:
        raise KdcError("RANK or WORLD_SIZE is set, but torchrun did not set them", "unset them, or start with torchrun")
    if args.multirun:
        raise KdcError("-m: torchrun's processes share one run, not the jobs of a sweep", "start it without torchrun")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP warns of what is asked of it
    with distributed.together(), tempfile.TemporaryDirectory() as nowhere:
        return _execute(args, nowhere=nowhere if distributed.rank() > 0 else None)


def _execute(args: argparse.Namespace, *, nowhere: str | None = None) -> int:
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from kdc.cli.main import report
    from kdc.cli.overrides import prepare
    from kdc.cli.sweep import Outcome, run_job, summarize, task_words, time_jobs
    from kdc.machine import share_cores

    share_cores()
    for flag, given in (("--resolve", args.resolve), ("--package", args.package is not None)):
        if given and args.cfg is None:
            raise KdcError(f"{flag} goes with --cfg alone", "add --cfg job, or leave it out")
    if args.config_dir is not None:
        check_extra(args.config_dir)
    words = prepare(args.overrides, sweep=args.multirun, extra=args.config_dir)
    if args.config_dir is not None:
        words.append(searchpath(args.config_dir))
    if nowhere is not None:
        _be_silent()
        words.append(f"hydra.run.dir={quote(nowhere)}")
    flags = ["--multirun"] if args.multirun else []
    flags += ["--cfg", args.cfg] if args.cfg else []
    flags += ["--resolve"] if args.resolve else []
    flags += ["--package", args.package] if args.package else []
    command = shlex.join(["kdc", *sys.argv[1:]])
    outcomes: list[Outcome] = []
    untimed: list[Untimed] = []
    sweep_folder: list[Path] = []

    def job(cfg: DictConfig) -> float:
        settings = HydraConfig.get()
        overrides = task_words(settings)
        if nowhere is not None:
            from kdc.config import to_run_config
            from kdc.pipeline import take_part

            take_part(to_run_config(cfg, overrides=overrides))
            return math.nan
        if args.multirun:
            sweep_folder[:] = [Path(settings.sweep.dir)]
            print(f"\n{Path(settings.runtime.output_dir).name}: {' '.join(overrides)}", file=sys.stderr)
        outcome = run_job(
            cfg,
            overrides,
            folder=Path(settings.runtime.output_dir),
            command=command,
            time_later=untimed.append if args.multirun else None,
        )
        outcomes.append(outcome)
        if args.multirun and outcome.error is not None:
            report(outcome.error)
        return outcome.objective

    register_base()
    # Hydra would print a traceback's remains and exit; with this it raises, and `readable_errors` speaks.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with readable_errors(), _arguments([*flags, *words]), _log_file_closed():
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="run")(job)()
    kept = [outcome for outcome in outcomes if not _drop_if_empty(outcome.folder)]
    if args.multirun:
        try:
            time_jobs(untimed)
        finally:
            summarize(outcomes, sweep_folder[0])
        if any(outcome.error is None for outcome in kept):
            link_latest(sweep_folder[0])
        elif not kept and outcomes:
            (sweep_folder[0] / "multirun.yaml").unlink()
            _drop_if_empty(sweep_folder[0])
        return int(any(outcome.error is not None for outcome in outcomes))
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
        if outcome in kept:
            link_latest(outcome.folder)
    return 0


def link_latest(folder: Path) -> None:
    """Point `outputs/latest` at a run or sweep that went well, beside the dated folders; elsewhere there is no link."""
    day = folder.resolve().parent
    if re.fullmatch(r"\d{4}-\d\d-\d\d", day.name) is None:
        return
    link, fresh = day.parent / "latest", day.parent / f".latest-{os.getpid()}"
    try:
        fresh.symlink_to(folder.resolve().relative_to(day.parent), target_is_directory=True)
        fresh.replace(link)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        _note(f"{link} does not point to this run: {error.strerror}")


def claim(folder: Path, key: str) -> None:
    """Make the output folder; refuse one that holds a run or a sweep already, or that cannot be written."""
    if any(next(folder.glob(records), None) is not None for records in ("record.json", "*/record.json")):
        raise KdcError(f"{folder} already holds a record", f"choose another folder with {key}=PATH, or delete it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise KdcError(
            f"cannot write the output folder {folder}: {error.strerror}", f"choose another with {key}=PATH"
        ) from error


class CheckFirst:
    """Hydra's callback between composing and starting.

    It leaves by SystemExit: of any other exception Hydra makes a mere warning.
    """

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        from kdc.cli.sweep import task_words
        from kdc.config import to_run_config, without_hydra

        with _exit_on_error():
            to_run_config(without_hydra(config), overrides=task_words(config.hydra), notify=_note)
            claim(Path(config.hydra.run.dir), "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        from kdc.cli.sweep import check_jobs

        with _exit_on_error():
            check_jobs(config, _note)
            claim(Path(config.hydra.sweep.dir), "hydra.sweep.dir")

    def _nothing(self, **_: Any) -> None:
        """Hydra calls every event of every callback."""

    on_run_end = on_multirun_end = on_job_start = on_job_end = _nothing


@contextmanager
def _exit_on_error() -> Iterator[None]:
    from kdc.cli.main import report

    try:
        with readable_errors():
            yield
    except Exception as error:
        raise SystemExit(report(error)) from error


@contextmanager
def _arguments(words: Sequence[str]) -> Iterator[None]:
    """`hydra.main` reads its words from sys.argv alone."""
    before, sys.argv = sys.argv, ["kdc run", *words]
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def _log_file_closed() -> Iterator[None]:
    """After Hydra's job its log file is done: a later run in this process must not write into that folder."""
    import logging

    try:
        yield
    finally:
        for handler in [handler for handler in logging.root.handlers if isinstance(handler, logging.FileHandler)]:
            logging.root.removeHandler(handler)
            handler.close()


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _be_silent() -> None:
    """Nothing of this process on stdout and stderr any more, its libraries' C++ included; all with KDC_DEBUG=1."""
    if os.environ.get("KDC_DEBUG") != "1":
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)


def _drop_if_empty(folder: Path) -> bool:
    """A dry run writes nothing: neither should the folder that Hydra made for it stay."""
    if any(folder.iterdir()):
        return False
    folder.rmdir()
    if not any(folder.parent.iterdir()):
        folder.parent.rmdir()
    return True
