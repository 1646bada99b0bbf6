"""cluster: every weight is one of few values, and files hold the values once and their numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from kdc.compress.base import PASSES
from kdc.compress.plan import ModulePrecision, Precision
from kdc.compress.quantizer import Quantizer

if TYPE_CHECKING:
    from torch import nn

    from kdc.compress.calibration import Calibration

ROUNDS = 100


@PASSES.register("cluster")
class Cluster(Quantizer):
    """Weights of each linear and convolution share 2^`bits` values, found by k-means (Han et al. 2016,
    arXiv:1510.00149, section 3).

    Smaller, not faster: a runtime looks the values up when it loads the file, and computes in float.
    """

    name: Literal["cluster"]
    bits: Literal[4, 8] = 8

    @property
    def precision(self) -> Precision:
        return "codebook"

    def precisions(self, model: nn.Module, names: list[str], rows: Calibration | None) -> dict[str, ModulePrecision]:
        found = {}
        for name in names:
            weight = model.get_parameter(f"{name}.weight").detach()
            values = weight.double().cpu().numpy().ravel()
            pruned = bool((values == 0).any())
            left = values[values != 0] if pruned else values
            values = kmeans(left, 2**self.bits - pruned) if len(left) else left
            values = np.unique(np.append(values, 0.0)) if pruned else values  # what is zero stays it
            codebook = tuple(float(value) for value in values.astype(np.float32))
            found[name] = ModulePrecision(dtype="codebook", weights_only=True, codebook=codebook)
        return found


def kmeans(values: np.ndarray, clusters: int) -> np.ndarray:
    """At most `clusters` centers, in order, by Lloyd's algorithm from centers evenly spread over the range of `values`,
    which Han et al. found best: large weights matter, and there are few of them.

    A center that no value is nearest to goes where the squared error is largest, and takes half of the values there.
    """
    ordered = np.sort(values)
    sums, squares = (np.concatenate([[0.0], np.cumsum(ordered**power)]) for power in (1, 2))
    centers = np.linspace(ordered[0], ordered[-1], clusters)
    for _ in range(ROUNDS):
        ends = np.searchsorted(ordered, (centers[:-1] + centers[1:]) / 2)
        starts, stops = np.concatenate([[0], ends]), np.concatenate([ends, [len(ordered)]])
        starts, stops = starts[stops > starts], stops[stops > starts]
        means = (sums[stops] - sums[starts]) / (stops - starts)
        errors = squares[stops] - squares[starts] - (stops - starts) * means**2
        worst = np.argsort(-errors)[: clusters - len(means)]
        worst = worst[errors[worst] > 1e-9 * squares[-1]]
        if len(worst):
            spread = np.sqrt(errors[worst] / (stops - starts)[worst])
            centers = np.sort(np.concatenate([np.delete(means, worst), means[worst] - spread, means[worst] + spread]))
            continue
        if len(means) == len(centers) and np.allclose(means, centers, rtol=0, atol=1e-9 * np.ptp(values)):
            break
        centers = means
    return np.unique(means)
