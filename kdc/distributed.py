"""Several processes of one run under torchrun: which one this is, and what rank 0 tells the others."""

from __future__ import annotations

import os
from typing import Any


def rank() -> int:
    """This process's number, from 0; 0 where there is one alone."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def start() -> None:
    """Join the other processes: NCCL where each has a GPU, gloo elsewhere."""
    import torch
    from accelerate import PartialState

    if world_size() > 1 and not torch.distributed.is_initialized():
        PartialState(cpu=not torch.cuda.is_available())


def broadcast(value: Any = None) -> Any:
    """What rank 0 passes, on every rank; waits until all have called it."""
    if world_size() == 1:
        return value
    import torch

    start()
    box = [value]
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    torch.distributed.broadcast_object_list(box, src=0, device=device)
    return box[0]
