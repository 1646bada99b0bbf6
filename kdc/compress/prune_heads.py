"""prune_heads: cuts attention heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from kdc.compress.base import PASSES
from kdc.compress.structured import PruneUnits
from kdc.compress.units import Units, heads

if TYPE_CHECKING:
    from kdc.models.anatomy import Layer


@PASSES.register("prune_heads")
class PruneHeads(PruneUnits):
    """Fewer attention heads, at least one a layer (Michel et al. 2019, arXiv:1905.10650).

    Configs know one number of heads whose sizes add up to the width, so what comes is no plain model of its config.
    """

    noun: ClassVar[str] = "heads"
    name: Literal["prune_heads"]

    def units(self, layer: Layer) -> Units:
        return heads(layer.name, layer.attention)
