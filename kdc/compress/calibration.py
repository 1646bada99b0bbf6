"""What a pass may look at to decide what matters: some training rows, what the model makes of them, and the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kdc.data.examples import IGNORED, Examples
from kdc.errors import KdcError
from kdc.tasks.base import Encoder, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

BATCH = 32


@dataclass(frozen=True)
class Calibration:
    """`rows` drawn from the training split, the same for every pass of a run that asks for as many."""

    task: Task
    encoder: Encoder
    rows: Examples

    def inputs_of(self, model: nn.Module, names: list[str]) -> Iterator[dict[str, Tensor]]:
        """What the named modules read, batch by batch, `[positions, inputs]`: of texts the real tokens alone."""
        import torch

        seen: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(module: Any, inputs: tuple[Tensor, ...]) -> None:
                seen[name] = inputs[0].detach()

            return hook

        with ExitStack() as stack:
            for name in names:
                stack.callback(model.get_submodule(name).register_forward_pre_hook(keep(name)).remove)
            for batch, _ in self._batches():
                with torch.no_grad():
                    model.eval()(**batch)
                mask = batch.get("attention_mask")
                yield {name: _real(states, mask) for name, states in seen.items()}

    def saliencies(self, model: nn.Module, names: list[str]) -> dict[str, np.ndarray]:
        """For every row, what scaling each input of the named linears would change of the loss: `[rows, inputs]`.

        With a mask m = 1 over a linear's inputs x, that is dL/dm = sum of x * dL/dx over the row's tokens, of the
        row's own loss: the model's against the row's label.
        """
        import torch
        from torch.nn.functional import cross_entropy

        seen: dict[str, Tensor] = {}
        found: dict[str, list[np.ndarray]] = {name: [] for name in names}

        def watch(name: str) -> Callable[..., tuple[Tensor, ...]]:
            def hook(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                seen[name] = inputs[0] if inputs[0].requires_grad else inputs[0].detach().requires_grad_()
                return (seen[name], *inputs[1:])

            return hook

        with ExitStack() as stack:
            for name in names:
                stack.callback(model.get_submodule(name).register_forward_pre_hook(watch(name)).remove)
            for batch, targets in self._batches():
                with torch.enable_grad():
                    logits = model.eval()(**batch).logits.float()
                    # a sum over rows: each row's gradient is that of its own loss
                    loss = cross_entropy(
                        logits.flatten(0, -2), targets.flatten(), reduction="sum", ignore_index=IGNORED
                    )
                    gradients = torch.autograd.grad(loss, [seen[name] for name in names])
                for name, gradient in zip(names, gradients, strict=True):
                    change = (seen[name].detach() * gradient).float()
                    found[name].append(change.reshape(len(targets), -1, change.shape[-1]).sum(dim=1).cpu().numpy())
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def _batches(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        import torch

        if len(self.rows) == 0:
            raise KdcError("calibration: there is no row to look at", "raise the pass's calibration_rows")
        encoded = self.encoder.encode(self.rows)
        targets = self.task.targets(self.rows, encoded)
        for start in range(0, len(encoded), BATCH):
            arrays: Mapping[str, np.ndarray] = self.encoder.collate(encoded[start : start + BATCH])
            labels = np.asarray(targets[start : start + BATCH])
            yield {name: torch.from_numpy(array) for name, array in arrays.items()}, torch.from_numpy(labels)


def _real(states: Tensor, mask: Tensor | None) -> Tensor:
    """`[positions, inputs]` of `[rows, length, inputs]`, padding left out."""
    if states.ndim == 3 and mask is not None and mask.shape == states.shape[:2]:
        return states[mask.bool()]
    return states.reshape(-1, states.shape[-1])


def calibration_rows(examples: Examples, count: int, *, seed: int) -> Examples:
    """So many rows at random, in their order; all where there are fewer."""
    chosen = np.random.default_rng(seed).permutation(len(examples))[:count]
    return examples.select(sorted(chosen.tolist()))
