"""What a pass may look at to decide what matters: some training rows, what the model makes of them, and the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kdc.compress.watching import layers_watched, positions_of, values_of
from kdc.data.examples import IGNORED, Examples
from kdc.errors import KdcError
from kdc.tasks.base import Encoder, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdc.export.base import Arrays
    from kdc.models.build import Built

BATCH = 32


@dataclass(frozen=True)
class Calibration:
    """`rows` drawn from the training split, the same for every pass of a run that asks for as many."""

    task: Task
    encoder: Encoder
    rows: Examples
    validation: Examples | None = None
    """For passes that judge."""
    metric: str = ""
    others: Sequence[Built] = ()
    """The pass's `checkpoints`."""

    def positions(self, model: nn.Module, name: str) -> float:
        """How many positions of a row the named module reads on average: tokens of a text, patches of a picture.

        One row tells how many a unit of length has, and rows need not be computed for their length.
        """
        lengths = [self.encoder.length(row) for row in self.encoder.encode(self.rows)]
        [first] = replace(self, rows=self.rows.select([0])).inputs_of(model, [name])
        return len(first[name]) / lengths[0] * float(np.mean(lengths))

    @property
    def higher_is_better(self) -> bool:
        return self.task.metrics[self.metric]

    def outputs(self, model: nn.Module, rows: Examples | None = None) -> Arrays:
        """What the model puts out for `rows`, or for the calibration rows."""
        from kdc.export.modules import graph_callables
        from kdc.tasks.inference import predict_rows

        rows = self.rows if rows is None else rows
        graphs = graph_callables(self.task.graphs(model.eval(), self.encoder, rows.select([0, 0])))
        return predict_rows(self.task, graphs, self.encoder, self.encoder.encode(rows))

    def score(self, model: nn.Module) -> float:
        """The metric on the validation split."""
        assert self.validation is not None
        return self.task.score(self.outputs(model, self.validation), self.validation)[self.metric]

    def inputs_of(self, model: nn.Module, names: list[str]) -> Iterator[dict[str, Tensor]]:
        """What the named linears and convolutions compute each position of their output from, batch by batch.

        `[positions, inputs]`: of texts the real tokens alone, of pictures the patch of pixels under the kernel.
        """
        import torch

        seen: dict[str, list[Tensor]] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(module: Any, inputs: tuple[Tensor, ...]) -> None:
                seen.setdefault(name, []).append(inputs[0].detach())

            return hook

        with ExitStack() as stack:
            for name in names:
                stack.callback(model.get_submodule(name).register_forward_pre_hook(keep(name)).remove)
            for batch, _ in self._batches():
                with torch.no_grad():
                    model.eval()(**batch)
                mask = batch.get("attention_mask")
                yield {
                    name: torch.cat([positions_of(model.get_submodule(name), read, mask) for read in uses])
                    for name, uses in seen.items()
                }
                seen.clear()

    def run_once(self, model: nn.Module) -> None:
        """Let the model read a batch, for whoever watches it."""
        import torch

        batch, _ = next(self._batches())
        with torch.no_grad():
            model.eval()(**batch)

    def seen_by(self, model: nn.Module, names: list[str]) -> Iterator[dict[str, list[Tensor]]]:
        """What the named modules read, and convolutions put out, batch by batch, `[values]` each; linears of texts at
        real tokens alone."""
        import torch

        linear = {name for name in names if not hasattr(model.get_submodule(name), "kernel_size")}
        seen: dict[str, list[list[Tensor]]] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                both = [inputs[0], output] if hasattr(module, "kernel_size") else [inputs[0]]
                seen.setdefault(name, []).append([values.detach().clone() for values in both])  # models write in place

            return hook

        with ExitStack() as stack:
            for name in names:
                stack.callback(model.get_submodule(name).register_forward_hook(keep(name)).remove)
            for batch, _ in self._batches():
                with torch.no_grad():
                    model.eval()(**batch)
                mask = batch.get("attention_mask")
                yield {
                    name: [values_of(side, mask if name in linear else None) for side in zip(*uses, strict=True)]
                    for name, uses in seen.items()
                }
                seen.clear()

    def input_norms(self, model: nn.Module, names: list[str]) -> dict[str, Tensor]:
        """The Euclidean norm of every input of the named modules over all positions, `[inputs]`."""
        return {name: total.sqrt().float() for name, (total, _) in self._squares(model, names).items()}

    def mean_squares(self, model: nn.Module, names: list[str]) -> dict[str, Tensor]:
        """The mean square of every input of the named modules over all positions, `[inputs]` in float64."""
        return {name: total / positions for name, (total, positions) in self._squares(model, names).items()}

    def _squares(self, model: nn.Module, names: list[str]) -> dict[str, tuple[Tensor, int]]:
        """Sums of squares of the inputs of the named modules, and over how many positions."""
        found: dict[str, tuple[Tensor, int]] = {}
        for batch in self.inputs_of(model, names):
            for name, states in batch.items():
                total, positions = found.get(name, (0, 0))
                found[name] = total + states.double().square().sum(dim=0), positions + len(states)
        return found

    def moments(self, model: nn.Module, names: list[str]) -> dict[str, Tensor]:
        """The mean of x x' over all positions, of the inputs x of the named modules, `[inputs, inputs]` in float64."""
        totals: dict[str, Tensor] = {}
        positions: dict[str, int] = dict.fromkeys(names, 0)
        for batch in self.inputs_of(model, names):
            for name, states in batch.items():
                own = states.double().t() @ states.double()
                totals[name] = totals[name] + own if name in totals else own
                positions[name] += len(states)
        return {name: total / positions[name] for name, total in totals.items()}

    def influences(self, model: nn.Module, names: list[str]) -> list[float]:
        """One minus the mean cosine, over real tokens, of what each of these layers reads and puts out."""
        import torch
        from torch.nn.functional import cosine_similarity

        totals, positions = torch.zeros(len(names), dtype=torch.float64), 0
        with layers_watched(model, names) as seen:
            for batch, _ in self._batches():
                with torch.no_grad():
                    model.eval()(**batch)
                mask = batch.get("attention_mask")
                for number, name in enumerate(names):
                    read, said = (positions_of(None, states, mask) for states in seen[name])
                    totals[number] += cosine_similarity(read, said, dim=-1).double().sum()
                positions += len(read)
        return [1 - float(total) / positions for total in totals]

    def layer_saliencies(self, model: nn.Module, names: list[str]) -> Iterator[np.ndarray]:
        """For every row, what fading out each of these layers would change of the loss: `[rows, layers]`, batch by
        batch.

        With a mask m = 1 on what a layer makes of its input, x + m * (f(x) - x), that is dL/dm = sum of (f(x) - x) *
        dL/df(x) over the row's tokens, of the row's own loss.
        """
        import torch

        with layers_watched(model, names) as seen:
            for loss, rows in self._losses(model):
                both = [seen[name] for name in names]
                slopes = torch.autograd.grad(loss, [said for _, said in both])
                changes = [(said - read).detach() * slope for (read, said), slope in zip(both, slopes, strict=True)]
                yield np.stack([change.reshape(rows, -1).sum(dim=1).cpu().numpy() for change in changes], axis=1)

    def fisher(self, model: nn.Module, parameters: Sequence[Tensor]) -> list[Tensor]:
        """The mean over rows of the squared gradient of the row's own loss: the empirical Fisher's diagonal."""
        import torch

        totals = [torch.zeros_like(parameter) for parameter in parameters]
        for gradients in self.gradients_by_row(model, parameters):
            for total, gradient in zip(totals, gradients, strict=True):
                total += gradient.square() / len(self.rows)
        return totals

    def gradients_by_row(self, model: nn.Module, parameters: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
        """Of every row's own loss, with respect to these parameters."""
        for loss, _ in self._losses(model, batch=1):
            yield _slopes(loss, parameters)

    def gradients(self, model: nn.Module, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Of the mean loss over all rows, with respect to these parameters."""
        import torch

        totals = [torch.zeros_like(parameter) for parameter in parameters]
        for loss, _ in self._losses(model):
            for total, gradient in zip(totals, _slopes(loss, parameters), strict=True):
                total += gradient / len(self.rows)
        return totals

    def saliencies(self, model: nn.Module, names: list[str]) -> Iterator[dict[str, np.ndarray]]:
        """For every row, what scaling each input of the named linears would change of the loss: `[rows, inputs]`,
        batch by batch.

        With a mask m = 1 over a linear's inputs x, that is dL/dm = sum of x * dL/dx over the row's tokens, of the
        row's own loss; over all its uses, where layers share it.
        """
        import torch

        seen: dict[str, list[Tensor]] = {}

        def watch(name: str) -> Callable[..., tuple[Tensor, ...]]:
            def hook(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                # a tensor of its own: others may read the same one
                read = inputs[0].clone() if inputs[0].requires_grad else inputs[0].detach().requires_grad_()
                seen.setdefault(name, []).append(read)
                return (read, *inputs[1:])

            return hook

        with ExitStack() as stack:
            for name in names:
                stack.callback(model.get_submodule(name).register_forward_pre_hook(watch(name)).remove)
            for loss, rows in self._losses(model):
                every = [(name, read) for name in names for read in seen[name]]
                found: dict[str, np.ndarray] = {}
                for (name, read), slope in zip(
                    every, torch.autograd.grad(loss, [read for _, read in every]), strict=True
                ):
                    change = (read.detach() * slope).float().reshape(rows, -1, read.shape[-1]).sum(dim=1)
                    found[name] = found.get(name, 0) + change.cpu().numpy()
                seen.clear()
                yield found

    def _losses(self, model: nn.Module, batch: int = BATCH) -> Iterator[tuple[Tensor, int]]:
        """The model's loss against the labels, batch by batch, and over how many rows: a sum over them, so that each
        row's gradient is that of its own loss."""
        import torch
        from torch.nn.functional import cross_entropy

        for inputs, targets in self._batches(batch):
            with torch.enable_grad():
                logits = model.eval()(**inputs).logits.float()
                loss = cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum", ignore_index=IGNORED)
            yield loss, len(targets)

    def _batches(self, size: int = BATCH) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        import torch

        if len(self.rows) == 0:
            raise KdcError("calibration: there is no row to look at", "raise the pass's calibration_rows")
        encoded = self.encoder.encode(self.rows)
        targets = self.task.targets(self.rows, encoded)
        for start in range(0, len(encoded), size):
            arrays: Mapping[str, np.ndarray] = self.encoder.collate(encoded[start : start + size])
            labels = np.asarray(targets[start : start + size])
            yield {name: torch.from_numpy(array) for name, array in arrays.items()}, torch.from_numpy(labels)


def _slopes(loss: Tensor, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
    """Gradients; zeros for what the rows do not reach, as a mixture's expert."""
    import torch

    return torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)


def calibration_rows(examples: Examples, count: int, *, seed: int) -> Examples:
    """So many rows at random, in their order; all where there are fewer."""
    chosen = np.random.default_rng(seed).permutation(len(examples))[:count]
    return examples.select(sorted(chosen.tolist()))
