"""`kdc`: find the subcommand, run it, and turn what goes wrong into one line and an exit code."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from kdc import __version__, distributed
from kdc.errors import KdcError, did_you_mean

COMMANDS = ("run", "bench", "report", "compare", "list", "doctor", "cache", "predict", "gate", "completion")
EXAMPLES = """examples:
  kdc run                                                  the embedded default: no download needed
  kdc run teacher=bert student=distilbert compress=int8    distill BERT into DistilBERT, then quantize
  kdc run experiment=sst2_minilm data_dir=PATH             a whole experiment, on local files
  kdc run 'runtime=[torch,onnxruntime]' train.epochs=2     quote every bracket
  kdc run -m compress=none,int8 student.layers=2,3         a sweep: every combination
  kdc list student                                         what there is to choose
"""


class Parser(argparse.ArgumentParser):
    """argparse, with errors like all others of kdc."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, allow_abbrev=False, **kwargs)  # type: ignore[arg-type,misc]

    def error(self, message: str) -> NoReturn:
        raise KdcError(message, f"see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of `kdc ARGV...`: 0 done, 1 failed, 2 bad input, 3 and 4 of `gate`, 130 interrupted."""
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except SystemExit as stop:  # --help, and runs that were refused between composing and starting
        if isinstance(stop.code, str):
            return report(KdcError(stop.code, exit_code=1))
        return stop.code or 0
    except KeyboardInterrupt:
        print("kdc: interrupted; finished stages are kept, run the same command to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output (`| head`) has seen enough; closing stdout at exit must not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return report(error)


def report(error: BaseException) -> int:
    """Say on stderr what went wrong, in one line (more only for several problems at once); returns the exit code.

    Under torchrun the other processes leave it to rank 0 to say.
    """
    if os.environ.get("KDC_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    if distributed.rank() > 0:
        distributed.tell(describe(error))
    else:
        print(f"kdc: error: {describe(error)}", file=sys.stderr)
    return error.exit_code if isinstance(error, KdcError) else 1


def describe(error: BaseException) -> str:
    if isinstance(error, KdcError):
        return str(error)
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    return f"unexpected {type(error).__name__}: {first}; KDC_DEBUG=1 shows the traceback"


def _dispatch(argv: list[str]) -> int:
    if argv and argv[0] == "--version":
        print(f"kdc {__version__}")
        return 0
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        raise KdcError(f"no subcommand is called '{name}'", did_you_mean(name, COMMANDS))
    module = importlib.import_module(f"kdc.cli.{name}")
    parser = Parser(prog=f"kdc {name}", description=module.SUMMARY)
    module.configure(parser)
    try:
        arguments = parser.parse_intermixed_args(rest)  # flags may stand between and after the others
    except TypeError:  # a parser with subcommands of its own cannot
        arguments = parser.parse_args(rest)
    return int(module.execute(arguments))


def _help() -> str:
    from kdc import __doc__ as purpose

    lines = [f"  {name:<12}{importlib.import_module(f'kdc.cli.{name}').SUMMARY}" for name in COMMANDS]
    footer = "`kdc COMMAND --help` says more; `kdc --version` shows the version."
    return "\n".join(["usage: kdc COMMAND ...", "", purpose or "", "", "commands:", *lines, "", EXAMPLES, footer])
