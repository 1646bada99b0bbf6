"""Two processes of one group, for terms over rows that are dealt out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing


def in_two_processes(function: Callable[..., Any], *args: Any) -> list[Any]:
    """What `function(rank, *args)`, tensors in lists and tuples, is in each of them."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_process, (folder, function, args), nprocs=2)
        return [torch.load(Path(folder, f"{rank}.pt")) for rank in range(2)]


def _process(rank: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(function(rank, *args), Path(folder, f"{rank}.pt"))
    torch.distributed.barrier()
    os._exit(0)  # taking the group down aborts one process in some dozens ("terminate called without ... exception")
