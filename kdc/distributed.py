"""Several processes of one run under torchrun: which one this is, what rank 0 tells the others, and how they end.

Rank 0 alone writes and speaks. Another process that fails leaves its line where rank 0 finds it.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from kdc.errors import KdcError

PATIENCE = timedelta(days=30)
"""How long processes wait for one another: rank 0 may be long at what it does alone, and torchrun ends the others of
one that failed."""
FAILED = "kdc/failed"
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(KdcError):
    """torchrun ends this process."""


def rank() -> int:
    """This process's number, from 0; 0 where there is one alone."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def start() -> None:
    """Join the other processes: NCCL where each has a GPU, gloo elsewhere."""
    import torch

    if world_size() == 1 or torch.distributed.is_initialized():
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if here > gpus:
            raise KdcError(
                f"torchrun started {here} processes here, but torch sees {gpus} GPU{'s' if gpus > 1 else ''}",
                "each needs its own: lower --nproc-per-node, or set CUDA_VISIBLE_DEVICES= to train on the CPU",
            )
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    _meet()
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)


def device() -> Any:
    """Where this process computes: its GPU, or the CPU where there is none."""
    import torch

    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def broadcast(value: Any = None) -> Any:
    """What rank 0 passes, on every rank; waits until all have called it."""
    if world_size() == 1:
        return value
    import torch

    start()
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0, device=device())
    return box[0]


def total(values: Any) -> Any:
    """The sum of a tensor over all processes, on every rank."""
    if world_size() == 1:
        return values
    import torch

    summed = values.clone()
    torch.distributed.all_reduce(summed)
    return summed


def wait() -> None:
    """Until all processes have come here."""
    if world_size() > 1:
        import torch

        start()
        torch.distributed.barrier()


def leave() -> None:
    """The end of what is done together: from here on rank 0 is alone."""
    if world_size() > 1:
        import torch

        wait()
        torch.distributed.destroy_process_group()
        os.environ["WORLD_SIZE"] = "1"


@contextmanager
def together() -> Iterator[None]:
    """What ends the block on rank 0 because another process failed is told as that process told it.

    A signal ends the block; once it is ending, signals find it tidying up. The other processes have nothing to tidy.
    """
    if world_size() == 1:
        yield
        return
    if rank() > 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        yield
        return
    outermost = signal.getsignal(signal.SIGTERM) is not _stop
    before = {one: signal.signal(one, _stop) for one in SIGNALS}
    try:
        yield
    except Exception as error:
        _be_deaf()
        if isinstance(error, KdcError) and not isinstance(error, StoppedError):
            raise
        if (told := _told()) is not None:
            raise KdcError(told, exit_code=1) from error
        if re.search("gloo|nccl|connection (closed|reset)", str(error), re.IGNORECASE):
            raise KdcError(
                "another process of this run is gone", "torchrun says which, and how it ended", exit_code=1
            ) from error
        raise
    finally:
        if outermost:
            for one, handler in before.items():
                signal.signal(one, handler)


def tell(failure: str) -> None:
    """Leave for rank 0 why this process fails."""
    with suppress(Exception):  # where the store is gone, so is rank 0
        _store().set(FAILED, f"process {rank()}: {failure}")


def _told() -> str | None:
    with suppress(Exception):
        store = _store()
        return str(store.get(FAILED).decode()) if store.check([FAILED]) else None
    return None


def _stop(number: int, frame: Any) -> None:
    _be_deaf()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise StoppedError("torchrun stopped this run", "its own lines say why", exit_code=1)


def _be_deaf() -> None:
    for one in SIGNALS:
        signal.signal(one, signal.SIG_IGN)


def _meet() -> None:
    """Wait for all in steps that a signal can end: the library's own wait listens to none."""
    store = _store()
    store.set(f"kdc/here/{rank()}", "")
    while not store.check([f"kdc/here/{other}" for other in range(world_size())]):
        time.sleep(0.05)


def _store() -> Any:
    """What torchrun itself lets its processes find one another by."""
    from torch.distributed import TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=10))
