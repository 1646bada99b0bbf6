"""The plain nets for texts, a BiLSTM and a convolutional network, as `transformers` models like those of `nets`.

Padding stands behind a row's tokens and never changes its answer. A row without any counts as one of padding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

POOLINGS = ("last", "max", "mean")


class BiLSTMConfig(PreTrainedConfig):
    """`hidden_size` units a direction in each of `num_hidden_layers`; `classifier_size` ReLUs before the last layer.

    `pooling` makes a row of its tokens: `last` takes where each direction ends, `max` and `mean` are over all tokens.
    """

    model_type = "kdc-bilstm"

    def __init__(
        self,
        vocab_size: int = 8000,
        embedding_size: int = 300,
        hidden_size: int = 150,
        num_hidden_layers: int = 1,
        classifier_size: int = 200,
        pooling: str = "last",
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)} (got {pooling!r})")
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.classifier_size = classifier_size
        self.pooling = pooling
        self.dropout = dropout
        super().__init__(**kwargs)


class TextCNNConfig(PreTrainedConfig):
    """`filters` of each of `widths`, which are counted in tokens."""

    model_type = "kdc-textcnn"

    def __init__(
        self,
        vocab_size: int = 8000,
        embedding_size: int = 300,
        widths: tuple[int, ...] = (3, 4, 5),
        filters: int = 100,
        dropout: float = 0.5,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.widths = list(widths)
        self.filters = filters
        self.dropout = dropout
        super().__init__(**kwargs)


class _TextNet(PreTrainedModel):
    """`input_ids`, `attention_mask` `[rows, length]` -> `logits` `[rows, labels]`.

    Its hidden states, each `[rows, length, width]`, are the embeddings and what comes out of each layer.
    """

    main_input_name = "input_ids"
    _input_embed_layer = "embeddings"

    def _init_weights(self, module: nn.Module) -> None:
        """Torch's own: that of transformers is made for blocks that add to a stream, and starts these nets at rest."""
        if isinstance(module, nn.Embedding | nn.Linear | nn.Conv1d | nn.LSTM):
            module.reset_parameters()


class BothWays(nn.Module):
    """An LSTM from the first token to the last and one from the last to the first, side by side."""

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.ahead = nn.LSTM(width, units, batch_first=True)
        self.back = nn.LSTM(width, units, batch_first=True)

    def forward(self, values: Tensor, mirror: Tensor) -> Tensor:
        """`[rows, length, width]` -> `[rows, length, 2 units]`; `mirror` `[rows, length]` turns the tokens around.

        Packed sequences would do the same, but have no dynamic axes in an exported graph.
        """
        ahead, _ = self.ahead(values)
        back, _ = self.back(_at(values, mirror))
        return torch.cat([ahead, _at(back, mirror)], dim=-1)


class BiLSTM(_TextNet):
    """The student of Tang et al. 2019 (arXiv:1903.12136, section 3.1): embeddings, BiLSTM, a ReLU layer, logits."""

    config_class = BiLSTMConfig

    def __init__(self, config: BiLSTMConfig) -> None:
        super().__init__(config)
        both = 2 * config.hidden_size
        widths = [config.embedding_size, *[both] * (config.num_hidden_layers - 1)]
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        self.layers = nn.ModuleList(BothWays(width, config.hidden_size) for width in widths)
        self.dense = nn.Linear(both, config.classifier_size)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.classifier_size, int(config.num_labels or 0))
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool | None = None
    ) -> SequenceClassifierOutput:
        places, lengths = _places(input_ids, attention_mask)
        mirror = torch.where(places < lengths, lengths - 1 - places, places)
        values = self.embeddings(input_ids)
        hidden_states = [values]
        for layer in self.layers:
            values = layer(values, mirror)
            hidden_states.append(values)
        pooled = self._pool(values, places < lengths, lengths)
        return SequenceClassifierOutput(
            logits=self.classifier(self.dropout(relu(self.dense(pooled)))),
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
        )

    def _pool(self, values: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
        """`[rows, length, 2 units]` -> `[rows, 2 units]`."""
        if self.config.pooling == "max":
            return values.masked_fill(~mask[..., None], -torch.inf).amax(dim=1)
        if self.config.pooling == "mean":
            return (values * mask[..., None]).sum(dim=1) / lengths
        units = self.config.hidden_size
        return torch.cat([_at(values, lengths - 1)[:, 0, :units], values[:, 0, units:]], dim=-1)


class TextCNN(_TextNet):
    """Convolutions over the embeddings and the maximum of each over time, by Kim 2014 (arXiv:1408.5882, section 2).

    Windows reach over both ends of a row, into zeros, so that a row shorter than the widest has some as well.
    """

    config_class = TextCNNConfig

    def __init__(self, config: TextCNNConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        self.convolutions = nn.ModuleList(
            nn.Sequential(
                nn.ZeroPad1d(((width - 1) // 2, width // 2)),
                nn.Conv1d(config.embedding_size, config.filters, width),
            )
            for width in config.widths
        )
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.filters * len(config.widths), int(config.num_labels or 0))
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, output_hidden_states: bool | None = None
    ) -> SequenceClassifierOutput:
        places, lengths = _places(input_ids, attention_mask)
        mask = (places < lengths)[:, None]
        values = self.embeddings(input_ids).transpose(1, 2) * mask
        maps = torch.cat([relu(convolution(values)) for convolution in self.convolutions], dim=1) * mask
        features = maps.amax(dim=-1)  # of values that are not negative, so that zeros of padding never win
        return SequenceClassifierOutput(
            logits=self.classifier(self.dropout(features)),
            hidden_states=(values.transpose(1, 2), maps.transpose(1, 2)) if output_hidden_states else None,
        )


def _places(input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The number of each token in its row `[rows, length]`, and how many the row has `[rows, 1]`."""
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    places = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
    return places, mask.sum(dim=1, keepdim=True).clamp(min=1)


def _at(values: Tensor, places: Tensor) -> Tensor:
    """The values at these places of each row: `[rows, length, width]`, `[rows, n]` -> `[rows, n, width]`."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[-1]))


for _config, _model in ((BiLSTMConfig, BiLSTM), (TextCNNConfig, TextCNN)):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModelForSequenceClassification.register(_config, _model, exist_ok=True)
