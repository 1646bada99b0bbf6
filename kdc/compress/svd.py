"""svd: linears, and embeddings where asked, as products of two thinner ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from kdc.compress.base import PASSES, Done, Family, WeightPass
from kdc.compress.gradual import Ratio
from kdc.compress.plan import PrecisionPlan
from kdc.compress.scope import chosen
from kdc.errors import KdcError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdc.compress.calibration import Calibration


@dataclass(frozen=True)
class Factors:
    """A decomposed matrix: `left @ right` of rank r is its first r columns and rows; `energies` are what each adds.

    `left` `[outputs, ranks]`, `right` `[ranks, inputs]`, `energies` `[ranks]` from the largest to the smallest.
    """

    left: Tensor
    right: Tensor
    energies: Tensor

    @property
    def shares(self) -> Tensor:
        """Of all energy; nothing of nothing."""
        return self.energies / (float(self.energies.sum()) or 1.0)

    @property
    def cost(self) -> int:
        """Weights that one more rank takes."""
        return len(self.left) + self.right.shape[1]

    @property
    def paying(self) -> int:
        """The largest rank that takes fewer weights than the matrix has."""
        return _paying(len(self.left), self.right.shape[1])


@PASSES.register("svd")
class Svd(WeightPass):
    """Low rank: W `[outputs, inputs]` becomes two linears with `rank` in between.

    `plain` leaves out the smallest singular values of W, which is the best in W's own norm (Eckart and Young 1936).
    `activation` the smallest of W L, where L L' is the inputs' second moment over calibration rows: the best for what
    the linear puts out (Wang et al. 2024, arXiv:2403.07378, section 3.1). `fisher` those of D W, D being the roots of
    the Fisher information summed over each output's weights (Hsu et al. 2022, arXiv:2207.00112, equation 6, of rows).

    How many ranks stay: `ratio` of the weights go, from every linear (`spread: layer`) or where it costs least
    (`global`); or as many as hold the share `energy` of each linear's squared singular values; or `rank` of them. A
    linear whose rank would take more weights than it has is left whole. The last linear is never touched.
    """

    family: ClassVar[Family] = "factorize"
    splits_linears: ClassVar[bool] = True
    name: Literal["svd"]
    method: Literal["plain", "activation", "fisher"] = "activation"
    ratio: Ratio = 0.5
    spread: Literal["layer", "global"] = "global"
    energy: Annotated[float, Field(gt=0, lt=1)] | None = None
    rank: PositiveInt | None = None
    embeddings: bool = False
    """Factorize embeddings of tokens too, always by `plain`."""
    calibration_rows: PositiveInt = 512
    include: list[str] = Field(default_factory=list)
    exclude: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.energy is not None and self.rank is not None:
            raise ValueError("energy and rank both say how many ranks stay; set one of them to null")
        return self

    @property
    def rows_to_see(self) -> int:
        return 0 if self.method == "plain" else self.calibration_rows

    def apply(self, model: nn.Module, plan: PrecisionPlan, rows: Calibration | None = None) -> Done:
        from kdc.models.shapes import factorize

        factors = self._decompose(model, self.targets(model), rows)
        lines, whole = [], 0
        for name, rank in self._ranks(factors).items():
            own = factors[name]
            full = len(own.energies)
            if rank > own.paying:
                lines.append(f"{name}: left whole, rank {rank} of {full} would take more weights than it has")
                whole += 1
                continue
            factorize(model, name, own.right[:rank].float(), own.left[:, :rank].float())
            kept = float(own.shares[:rank].sum())
            lines.append(f"{name}: rank {rank} of {full}, {kept:.1%} of its energy")
        if whole == len(factors):
            raise KdcError("compress.svd: no rank pays, so every linear is as it was", "lower energy, or raise ratio")
        return Done(model, plan, lines)

    def outline(self, model: nn.Module) -> None:
        from kdc.models.shapes import factorize

        for name, matrix in self.targets(model).items():
            factorize(model, name, matrix[:1], matrix[:, :1])

    def targets(self, model: nn.Module) -> dict[str, Tensor]:
        matrices = dict(_eligible(model, embeddings=self.embeddings))
        names, _ = chosen(self.name, matrices, self.include, self.exclude)
        paying = {name: _paying(*matrices[name].shape) for name in names}
        if self.rank is not None and (useless := next((name for name in names if self.rank > paying[name]), None)):
            outputs, inputs = matrices[useless].shape
            raise KdcError(
                f"compress.svd.rank={self.rank} does not pay: {useless} has {outputs} x {inputs} weights, two linears "
                "of that rank more",
                f"take at most {min(paying.values())}, or exclude it",
            )
        return {name: matrices[name] for name in names}

    def _decompose(
        self, model: nn.Module, matrices: Mapping[str, Tensor], rows: Calibration | None
    ) -> dict[str, Factors]:
        import torch

        from kdc.models.shapes import outputs_first

        linears = [name for name in matrices if not isinstance(model.get_submodule(name), torch.nn.Embedding)]
        if self.method == "activation":
            assert rows is not None
            moments = rows.moments(model, linears)
            return {
                name: whitened(weight, moments[name]) if name in moments else plain(weight)
                for name, weight in matrices.items()
            }
        if self.method == "fisher":
            assert rows is not None
            parameters: list[Any] = [model.get_submodule(name).weight for name in linears]
            information = dict(zip(linears, rows.fisher(model, parameters), strict=True))
            return {
                name: weighted(weight, outputs_first(model.get_submodule(name), information[name]).sum(dim=1))
                if name in information
                else plain(weight)
                for name, weight in matrices.items()
            }
        return {name: plain(weight) for name, weight in matrices.items()}

    def _ranks(self, factors: Mapping[str, Factors]) -> dict[str, int]:
        """How many ranks of each matrix stay."""

        if self.rank is not None:
            return dict.fromkeys(factors, self.rank)
        if self.energy is not None:
            shares = {name: own.shares.cumsum(0) for name, own in factors.items()}
            return {name: 1 + int((share < self.energy).sum()) for name, share in shares.items()}
        if self.spread == "layer":
            kept = 1 - self.ratio
            return {
                name: max(1, math.floor(kept * len(own.left) * own.right.shape[1] / own.cost))
                for name, own in factors.items()
            }
        return _global_ranks(factors, (1 - self.ratio) * sum(len(o.left) * o.right.shape[1] for o in factors.values()))


def _paying(outputs: int, inputs: int) -> int:
    return (outputs * inputs - 1) // (outputs + inputs)


def plain(weight: Tensor) -> Factors:
    """The singular value decomposition of W."""
    import torch

    left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
    return Factors(left * values, right, values.square())


def whitened(weight: Tensor, moment: Tensor) -> Factors:
    """... of W L, with L L' = `moment` `[inputs, inputs]`: energies are squared errors of the outputs."""
    import torch

    moment = moment.double()
    # inputs that never moved leave it singular: a millionth of the mean variance for each, or of 1 where none moved
    ridge = 1e-6 * (float(moment.diagonal().mean()) or 1.0)
    moment = moment + ridge * torch.eye(len(moment), dtype=torch.float64)
    root = torch.linalg.cholesky(moment)
    left, values, right = torch.linalg.svd(weight.double() @ root, full_matrices=False)
    unwhitened = torch.linalg.solve_triangular(root, right, upper=False, left=False)
    return Factors(left * values, unwhitened, values.square())


def weighted(weight: Tensor, information: Tensor) -> Factors:
    """... of D W, with D the roots of `information` `[outputs]`."""
    import torch

    roots = information.double().sqrt()
    roots = roots.clamp(min=1e-6 * float(roots.max()) or 1.0)[:, None]
    left, values, right = torch.linalg.svd(roots * weight.double(), full_matrices=False)
    return Factors(left * values / roots, right, values.square())


def _global_ranks(factors: Mapping[str, Factors], budget: float) -> dict[str, int]:
    """Ranks bought one by one where each weight buys most of the layer's energy, until the budget is spent.

    Energies are shares of their own layer's, since layers' outputs have scales of their own. A layer whose ranks would
    pay no more is bought whole at the price of what it has.
    """
    import torch

    names = list(factors)
    worth = [own.shares / own.cost for own in factors.values()]
    owner = torch.cat([torch.full((len(own),), number) for number, own in enumerate(worth)])
    order = torch.cat(worth).argsort(descending=True)
    ranks = dict.fromkeys(names, 1)
    spent = float(sum(own.cost for own in factors.values()))
    if spent > budget:
        raise KdcError("compress.svd.ratio: a rank of 1 everywhere takes more weights than that leaves", "lower it")
    first = dict.fromkeys(names, True)
    for item in order.tolist():
        name = names[int(owner[item])]
        if first[name]:
            first[name] = False  # every layer has its first rank already
            continue
        price = _price(factors[name], ranks[name])
        if spent + price > budget:
            continue
        ranks[name] += 1
        spent += price
    return ranks


def _price(own: Factors, rank: int) -> int:
    """Weights that one more rank takes; beyond the last that pays, what the whole matrix has more."""
    if rank < own.paying:
        return own.cost
    return len(own.left) * own.right.shape[1] - own.paying * own.cost if rank == own.paying else 0


def _eligible(model: Any, *, embeddings: bool) -> list[tuple[str, Tensor]]:
    """Weights `[outputs, inputs]` of all linears but the last, and of embeddings of tokens `[tokens, width]`."""
    from torch import nn

    from kdc.models.layers import last_linear
    from kdc.models.shapes import outputs_first

    last, found = last_linear(model), []
    for name, module in model.named_modules():
        if (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D") and module is not last:
            found.append((name, outputs_first(module, module.weight.detach())))
        elif isinstance(module, nn.Embedding) and embeddings and module is model.get_input_embeddings():
            found.append((name, module.weight.detach()))
    return found
