"""Attention in the plain way, with its probabilities as they are before dropout.

`transformers` returns what dropout has left of the probabilities: in training a tenth of them is 0 and the rows do not
sum to 1. Loss terms compare the distributions themselves.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn

from kdc.quiet import quiet

UNDROPPED = "kdc_undropped"


def use_undropped_attention(model: Any) -> bool:
    """Make a `transformers` model compute its attention so; False for those that cannot be told how (MPNet, DeBERTa):
    what they return in training is what dropout has left.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register(UNDROPPED, attend)
    AttentionMaskInterface.register(UNDROPPED, eager_mask)
    with quiet():  # it would warn of what is refused here
        model.set_attn_implementation(UNDROPPED)
    told: str = model.config._attn_implementation
    return told == UNDROPPED


def attend(module: nn.Module, *states: Tensor, dropout: float = 0.0, **settings: Any) -> tuple[Tensor, Tensor]:
    """What the model's own plain attention puts out with dropout, and its probabilities without.

    The values are those of `eager`, to the last bit and from the same random numbers.
    """
    plain = sys.modules[type(module).__module__].eager_attention_forward
    output, probabilities = plain(module, *states, dropout=0.0, **settings)
    if dropout:
        output, _ = plain(module, *states, dropout=dropout, **settings)
    return output, probabilities
