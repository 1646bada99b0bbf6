"""The command line: one file a subcommand; nothing heavy is imported at the top.

A subcommand is a module `kdc.cli.<name>` with three names, imported only when it is chosen:

    SUMMARY: str                                              one line, shown by `kdc --help`
    configure(parser: argparse.ArgumentParser) -> None        its arguments, description and examples (`epilog`)
    execute(args: argparse.Namespace) -> int                  does the work and returns the exit code

`execute` prints its result to stdout and raises `KdcError` for whatever a user can act on; `kdc.cli.main` turns that
into one line on stderr and an exit code. torch, transformers and the like are imported inside functions.
"""
