"""`kdc bench`: time models side by side, in common rounds of fresh processes, whoever made them."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdc.errors import KdcError, did_you_mean
from kdc.files import check_writable

if TYPE_CHECKING:
    from kdc.bench import Entrant
    from kdc.measure.settings import BenchConfig

SUMMARY = "time models side by side: artifacts of kdc, Hugging Face folders, .onnx files, OpenVINO IRs"
EPILOG = """examples:
  kdc bench outputs/latest/artifacts/*
  kdc bench bert/ bert.onnx bert.xml --batch 1,8 --length 32,128
  kdc bench old.onnx new.onnx --baseline old.onnx --bench thorough --json bench/record.json
  kdc bench bert/ student/ --data questions.csv              real rows too, tokenizer included
  kdc bench student.onnx --noise                             how much two timings of one file differ here
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifacts", nargs="*", type=Path, metavar="ARTIFACT", help="a folder, a .onnx or a .xml file")
    parser.add_argument("--bench", metavar="NAME", help="quick, default or thorough (default)")
    parser.add_argument("--batch", type=_sizes, metavar="N,N", help="batch sizes, instead of the bench's")
    parser.add_argument("--length", type=_sizes, metavar="N,N", help="lengths in tokens, instead of the bench's")
    parser.add_argument("--rounds", type=_count, metavar="N", help="processes that each artifact is timed in")
    parser.add_argument("--threads", type=_count, metavar="N", help="threads to use (all cores)")
    parser.add_argument("--baseline", metavar="NAME", help="the one that the others are held against (the first)")
    parser.add_argument("--data", type=Path, metavar="FILE", help="texts to time end to end: csv, tsv, json, ..., txt")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a record there, for `kdc report`")
    parser.add_argument("--noise", action="store_true", help="time one artifact against itself; remembered for gates")
    parser.add_argument("--plugin", action="append", default=[], metavar="MODULE", help="a module that they need")
    parser.epilog = EPILOG


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number above 0")
    return int(text)


def _sizes(text: str) -> list[int]:
    return [_count(part.strip()) for part in text.split(",")]


def execute(args: argparse.Namespace) -> int:
    if not args.artifacts:
        raise KdcError("nothing to time", "usage: kdc bench ARTIFACT... (see `kdc bench --help`)")
    if args.noise:
        _check_noise(args)
    if args.json:
        check_writable(args.json)
    bench = settings(args)
    from rich.console import Console

    from kdc.bench import bench_record, enter
    from kdc.report.bench import print_bench
    from kdc.screen import Screen

    with tempfile.TemporaryDirectory(prefix="kdc-bench-") as scratch:
        entrants = {
            name: enter(name, path, bench, scratch=Path(scratch, str(number)), data=args.data, plugins=args.plugin)
            for number, (name, path) in enumerate(unique_names(args.artifacts).items())
        }
        if args.noise:
            print(noise(entrants, bench, rounds=args.rounds))
            return 0
        command = shlex.join(["kdc", *sys.argv[1:]])
        record = bench_record(entrants, bench, baseline=args.baseline, command=command, screen=Screen())
    print_bench(record, Console())
    if args.json:
        record.save(args.json)
    return 0


def _check_noise(args: argparse.Namespace) -> None:
    if len(args.artifacts) > 1:
        raise KdcError("--noise times one artifact against itself", "name one")
    for option in ("bench", "baseline", "data", "json"):
        if getattr(args, option) is not None:
            raise KdcError(f"--{option} means nothing to --noise", "leave one of them out")
    for option in ("batch", "length"):
        if len(getattr(args, option) or []) > 1:
            raise KdcError(f"--noise times one workload, and --{option} names several", "name one")


def settings(args: argparse.Namespace) -> BenchConfig:
    """The YAML of `--bench` with what the command line says in its place."""
    import yaml

    from kdc.compose import choices, config_dir
    from kdc.measure.settings import BenchConfig

    name, known = args.bench or "default", choices("bench")
    if name not in known:
        raise KdcError(f"--bench: there is no '{name}'", did_you_mean(name, known))
    shipped = yaml.safe_load((config_dir() / "bench" / f"{name}.yaml").read_text(encoding="utf-8"))
    said = {"batches": args.batch, "lengths": args.length, "rounds": args.rounds, "threads": args.threads}
    return BenchConfig.model_validate(shipped | {key: value for key, value in said.items() if value is not None})


def unique_names(paths: Sequence[Path]) -> dict[str, Path]:
    """Each path by its name, with as many of its folders before it as tell it from the others; twins are numbered."""
    names: dict[str, Path] = {}
    for path in paths:
        parts = path.resolve().parts
        others = [other.resolve().parts for other in paths if other.resolve() != path.resolve()]
        depth = next(n for n in range(1, len(parts) + 1) if not any(other[-n:] == parts[-n:] for other in others))
        name = "/".join(parts[-depth:])
        twins = sum(known == name or known.startswith(f"{name} (") for known in names)
        names[f"{name} ({twins + 1})" if twins else name] = path
    return names


def noise(entrants: Mapping[str, Entrant], bench: BenchConfig, *, rounds: int | None) -> str:
    """Measure and remember how much two timings of one artifact differ on this machine; one sentence about it."""
    from kdc.measure.decision import LOOKS
    from kdc.measure.noise import keep_floor, measure_floor
    from kdc.measure.workloads import spelled
    from kdc.screen import Screen
    from kdc.store import default_root

    ((name, entrant),) = entrants.items()
    screen = Screen()
    with screen.bar("time it against itself", "processes") as advance:
        contender = entrant.contender(against=())
        floor = measure_floor(contender, bench, rounds=rounds or LOOKS[-1], progress=advance, notify=screen.say)
    keep_floor(floor, default_root())
    return (
        f"{name} against itself, {floor.rounds} rounds at {spelled(floor.workload, threads=True)}: differences up to "
        f"{floor.floor:.1%} are noise on this machine, and a gate here refuses a smaller margin."
    )
