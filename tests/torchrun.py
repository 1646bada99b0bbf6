"""Two processes of one run, started as users start them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def torchrun(*words: str, paths: Sequence[Path] = (), **settings: Any) -> subprocess.Popen[str]:
    """`torchrun --nproc-per-node 2 WORDS` on the CPU, with a port of its own so that several can run at once.

    Python looks into `paths` for modules too.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *paths))),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",  # a machine with one GPU has none for the second process
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings
    )
