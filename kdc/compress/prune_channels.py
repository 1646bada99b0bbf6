"""prune_channels: channels out of convolutions, with all that is tied to them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveInt

from kdc.compress.base import PASSES, Done
from kdc.compress.gradual import Gradual
from kdc.compress.plan import PrecisionPlan
from kdc.compress.scope import chosen
from kdc.compress.units import Score, choose, described
from kdc.errors import KdcError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdc.compress.calibration import Calibration

OUT = "prune_out_channels"


@PASSES.register("prune_channels")
class PruneChannels(Gradual):
    """Fewer channels; what adds them up, normalizes or reads them loses the same ones.

    Which convolutions and linears a channel goes through, shortcuts included, is found by Torch-Pruning's dependency
    graph (Fang et al. 2023, arXiv:2301.12900); one such group keeps as many channels everywhere. `uniform` takes the
    share of every group, and a net that its config can still describe stays a plain one; otherwise groups compete.
    `include` and `exclude` are shell patterns of the convolutions' names.
    """

    cuts_units: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ("torch-pruning",)
    modality: ClassVar[str | None] = "image"
    name: Literal["prune_channels"]
    score: Score = "l2"
    uniform: bool = True
    align: PositiveInt = 1
    """Groups keep a multiple of this many channels where they can: vector units like round numbers."""
    calibration_rows: PositiveInt = 512
    """Training rows that scores other than norms of weights look at."""
    include: list[str] = Field(default_factory=list)
    exclude: list[str] = Field(default_factory=list)

    @property
    def rows_to_see(self) -> int:
        return 0 if self.score in ("l1", "l2") else self.calibration_rows

    def apply(self, model: nn.Module, plan: PrecisionPlan, rows: Calibration | None = None) -> Done:
        graph, groups, names = self.targets(model)
        worth = scores(model, [groups[name] for name in names], self.score, rows)
        kept = choose(worth, self.ratio, uniform=self.uniform, align=self.align, whole=self._whole)
        sizes = {}
        for name, values, numbers in zip(names, worth, kept, strict=True):
            root = groups[name][0].dep
            gone = sorted(set(range(len(values))) - set(numbers.tolist()))
            sizes[name] = len(values), len(numbers)
            if gone:
                graph.get_pruning_group(root.target.module, root.handler, gone).prune()
        _tell(model)
        return Done(model, plan, described(sizes, "channels"))

    def sizes(self, model: nn.Module) -> list[int]:
        _, groups, names = self.targets(model)
        return [len(groups[name][0].idxs) for name in names]

    def targets(self, model: nn.Module) -> tuple[Any, dict[str, Any], list[str]]:
        """The graph, its groups by name, and which of them are for it to cut."""
        graph, groups = _groups(model)
        names, _ = chosen(self.name, groups, self.include, self.exclude)
        return graph, groups, names


def scores(model: nn.Module, groups: Collection[Any], score: Score, rows: Calibration | None) -> list[np.ndarray]:
    """How much each channel of every group matters, `[channels]`.

    `l1`, `l2`: the norm of all weights that make or read it, over the group's mean. `taylor`: the size of the sum of
    w * dL/dw over all these weights w (Molchanov et al. 2019, arXiv:1906.10771, section 3.1). `fisher`: the mean over
    rows of (dL/dm)^2, of the row's own loss, for a mask m on what all that read the channel read, so that dL/dm is the
    sum of w * dL/dw over their weights (Liu et al. 2021, arXiv:2108.00708, who divide by what it costs). `activation`:
    the root mean square of what the channel adds to the outputs of those that read it, if their inputs were
    uncorrelated about zero: ||rms(x) * w||.
    """
    weights: list[Tensor] = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    if score in ("l1", "l2"):
        power = 1 if score == "l1" else 2
        sizes = {weight: weight.abs() ** power for weight in weights}
        norms = [added(group, sizes) ** (1 / power) for group in groups]
        return [values / values.mean() for values in norms]
    assert rows is not None
    if score == "activation":
        readers = {
            item.dep.target.module for group in groups for item in group if not _makes(item) and _has_matrix(item)
        }
        names = [name for name, module in model.named_modules() if module in readers]
        read = rows.mean_squares(model, names)
        heard = {}
        for name in names:
            weight: Any = model.get_submodule(name).weight
            heard[weight] = weight.square() * read[name].reshape(weight[:1].shape)
        return [np.sqrt(added(group, heard, made=False)) for group in groups]
    if score == "taylor":
        slopes = zip(weights, rows.gradients(model, weights), strict=True)
        changes = {weight: weight * slope for weight, slope in slopes}
        return [np.abs(added(group, changes)) for group in groups]
    totals = [np.zeros(len(group[0].idxs)) for group in groups]
    for gradients in rows.gradients_by_row(model, weights):
        changes = {weight: weight * slope for weight, slope in zip(weights, gradients, strict=True)}
        for total, group in zip(totals, groups, strict=True):
            total += np.square(added(group, changes, made=False)) / len(rows.rows)
    return totals


def added(group: Any, values: Mapping[Tensor, Tensor], *, made: bool = True) -> np.ndarray:
    """The sum of `values`, shaped as their weights, over all weights of the group that read each channel and, with
    `made`, that make it: `[channels]`."""
    found = np.zeros(len(group[0].idxs))
    for item in group:
        if _has_matrix(item) and (made or not _makes(item)):
            own = values[item.dep.target.module.weight].detach()
            rows = own if _makes(item) else own.transpose(0, 1)
            np.add.at(found, list(item.root_idxs), rows[list(item.idxs)].double().flatten(1).sum(1).cpu().numpy())
    return found


def _groups(model: Any) -> tuple[Any, dict[str, Any]]:
    """The dependency graph, and its groups by the name of the first convolution of each, in the model's order."""
    import torch
    import torch_pruning
    from torch import nn

    from kdc.models.layers import last_linear

    names = {module: name for name, module in model.named_modules()}
    if not any(isinstance(module, nn.Conv2d) for module in names) or model.main_input_name != "pixel_values":
        raise KdcError(
            f"compress.prune_channels: a {type(model).__name__} has no convolutions of pictures", "leave the pass out"
        )
    if any(isinstance(module, nn.Conv2d) and module.groups > 1 for module in names):
        raise KdcError(
            f"compress.prune_channels: a {type(model).__name__} has convolutions of groups, which kdc cannot cut",
            "take prune or svd",
        )
    size, channels = model.config.image_size if hasattr(model.config, "image_size") else 64, model.config.num_channels
    height, width = size if isinstance(size, list | tuple) else (size, size)
    graph = torch_pruning.DependencyGraph().build_dependency(
        model.eval(),
        example_inputs={"pixel_values": torch.zeros(1, channels, height, width, device=model.device)},
        output_transform=lambda outputs: outputs.logits,
    )
    found = {}
    for group in graph.get_all_groups(ignored_layers=[last_linear(model)], root_module_types=[nn.Conv2d]):
        known = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
        others = [item.dep.target.module for item in group if item.dep.target.module in names]
        if strange := next((module for module in others if not isinstance(module, known)), None):
            raise KdcError(
                f"compress.prune_channels: channels of a {type(model).__name__} go through a {type(strange).__name__}",
                "it is for nets of convolutions, batch norms and linears; take prune or svd",
            )
        made = [item for item in group if isinstance(item.dep.target.module, nn.Conv2d) and _makes(item)]
        first = min(made, key=lambda item: list(names).index(item.dep.target.module))
        found[names[first.dep.target.module]] = group
    order = list(names.values())
    return graph, dict(sorted(found.items(), key=lambda entry: order.index(entry[0])))


def _tell(model: Any) -> None:
    """Let the config say which channels are left, where that tells all of them: then the net stays a plain one."""
    from kdc.models.shapes import differing

    left = WIDTHS[model.config.model_type](model) if model.config.model_type in WIDTHS else {}
    before = {key: getattr(model.config, key) for key in left}
    model.config.update(left)
    if differing(model):
        model.config.update(before)


def _resnet_widths(model: Any) -> dict[str, Any]:
    stages = [stage.layers[-1].layer[-1].convolution.out_channels for stage in model.base_model.encoder.stages]
    return {"embedding_size": model.base_model.embedder.embedder.convolution.out_channels, "hidden_sizes": stages}


def _cnn_widths(model: Any) -> dict[str, Any]:
    return {"channels": [layer.out_channels for layer in model.layers if hasattr(layer, "out_channels")]}


WIDTHS: Mapping[str, Callable[[Any], dict[str, Any]]] = {"resnet": _resnet_widths, "kdc-cnn": _cnn_widths}
"""By kind of net, the settings of its config that say how many channels there are."""


def _makes(item: Any) -> bool:
    return bool(item.dep.handler.__name__ == OUT)


def _has_matrix(item: Any) -> bool:
    """Whether the module that this part of a group goes through has a matrix or a kernel: norms have not."""
    weight = getattr(item.dep.target.module, "weight", None)
    return weight is not None and weight.ndim > 1
