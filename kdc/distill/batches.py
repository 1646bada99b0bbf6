"""Training batches: which rows, bucketed by length, and what of them.

The rows are a pure function of seed, epoch and lengths, so a resumed run sees the same, and so do several processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Sampler

from kdc.distill.terms.base import IGNORED
from kdc.tasks.base import Encoded, Encoder

POOL_BATCHES = 50
"""Rows are sorted by length within random pools of this many batches: little padding, yet still shuffled."""


class LengthBuckets(Sampler[list[int]]):
    """Batches of row numbers. Every row once an epoch; call `set_epoch` before iterating."""

    def __init__(self, lengths: Sequence[int], batch_size: int, *, seed: int) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(len(self.lengths))
        pool = self.batch_size * POOL_BATCHES
        batches: list[list[int]] = []
        for start in range(0, len(order), pool):
            rows = order[start : start + pool]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            batches += [rows[i : i + self.batch_size].tolist() for i in range(0, len(rows), self.batch_size)]
        random.shuffle(batches)
        return iter(batches)


@dataclass(frozen=True)
class Part:
    """Rows of one forward pass, and by how much their mean loss counts in the mean over the whole batch."""

    rows: list[int]
    share: float


class Parts(Sampler[Part]):
    """The batches of `batch_sampler`, each dealt out to `world` processes and `accumulate` parts: those of `rank`.

    Gradients of parts and processes are averaged, so a part counts by its rows, and the result is that of the batch,
    but for means over labelled rows, which are taken part by part where some rows have no label.
    """

    def __init__(self, batch_sampler: LengthBuckets, *, accumulate: int = 1, rank: int = 0, world: int = 1) -> None:
        self.batch_sampler = batch_sampler
        self.accumulate, self.rank, self.world = accumulate, rank, world

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.batch_sampler) * self.accumulate

    def __iter__(self) -> Iterator[Part]:
        parts = self.accumulate * self.world
        for batch in self.batch_sampler:
            for number in range(self.accumulate):
                rows = batch[number * self.world + self.rank :: parts]
                # one without rows goes through the motions with the first row, which counts nothing
                yield Part(rows or batch[:1], len(rows) * parts / len(batch))


class Rows(Dataset[int]):
    """Row numbers; the collator knows what stands in the rows."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, part: Part) -> Part:
        return part


class Collator:
    """A part -> one batch of tensors: the student's inputs, the labels, and which rows these are."""

    def __init__(
        self, encoder: Encoder, encoded: Encoded, *, targets: np.ndarray | Sequence[np.ndarray] | None
    ) -> None:
        self.encoder, self.encoded, self.targets = encoder, encoded, targets

    def __call__(self, part: Part) -> dict[str, Any]:
        batch: dict[str, Any] = {"inputs": tensors(self.encoder, self.encoded, part.rows)}
        if self.targets is not None:
            batch["labels"] = _labels(self.targets, part.rows)
        return {**batch, "part": part}


def tensors(encoder: Encoder, encoded: Encoded, rows: Sequence[int]) -> dict[str, Tensor]:
    """A model's inputs of these rows, padded to the longest."""
    arrays = encoder.collate([encoded[row] for row in rows])
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _labels(targets: np.ndarray | Sequence[np.ndarray], rows: Sequence[int]) -> Tensor:
    """Those of one batch, padded to the longest where there is one a token."""
    if isinstance(targets, np.ndarray):
        return torch.from_numpy(targets[rows])
    return pad_sequence([torch.from_numpy(targets[row]) for row in rows], batch_first=True, padding_value=IGNORED)
