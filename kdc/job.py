"""What a worker process does: one JSON job from stdin, one JSON line to stdout. `kdc.processes` starts it.

Light to import: what a process takes before it loads anything is measured in some.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from kdc.errors import KdcError


def serve(run_job: Callable[[dict[str, Any]], dict[str, Any]]) -> NoReturn:
    """Answer the job and end the process; a KdcError goes to stderr, as a line, and sets the exit code."""
    code = 0
    try:
        print(json.dumps(run_job(json.load(sys.stdin))))
    except KdcError as error:
        print(error, file=sys.stderr)
        code = error.exit_code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # nothing is left to tidy up, and taking torch down takes most of a second
