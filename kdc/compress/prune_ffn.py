"""prune_ffn: cuts neurons out of feed-forward parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from kdc.compress.base import PASSES
from kdc.compress.structured import PruneUnits
from kdc.compress.units import Units, neurons

if TYPE_CHECKING:
    from torch import nn

    from kdc.models.anatomy import Layer

SIZES = ("intermediate_size", "hidden_dim", "n_inner")
"""What configs call the number of neurons a layer: BERT and ViT, DistilBERT, GPT-2."""


@PASSES.register("prune_ffn")
class PruneFfn(PruneUnits):
    """Fewer neurons in the feed-forward part of every layer. With `uniform` the model stays one of a plain config."""

    noun: ClassVar[str] = "neurons"
    name: Literal["prune_ffn"]

    def units(self, layer: Layer) -> Units:
        return neurons(layer.name, layer.feed_forward)

    def note_config(self, model: nn.Module, counts: set[int]) -> None:
        config: Any = model.config
        if len(counts) == 1:
            setattr(config, next(size for size in SIZES if hasattr(config, size)), counts.pop())
