"""The plain nets for images, an MLP and a small CNN, as `transformers` models: they save and load like all others."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention


class MLPConfig(PreTrainedConfig):
    """`hidden_sizes` are the widths between pixels and logits."""

    model_type = "kdc-mlp"

    def __init__(
        self,
        hidden_sizes: tuple[int, ...] = (256, 128),
        dropout: float = 0.0,
        image_size: int = 28,
        num_channels: int = 1,
        **kwargs: Any,
    ) -> None:
        self.hidden_sizes = list(hidden_sizes)
        self.dropout = dropout
        self.image_size = image_size
        self.num_channels = num_channels
        super().__init__(**kwargs)


class CNNConfig(PreTrainedConfig):
    """Each of `channels` is a 3x3 convolution with batch norm, ReLU and 2x2 max pooling; then one hidden layer."""

    model_type = "kdc-cnn"

    def __init__(
        self,
        channels: tuple[int, ...] = (32, 64),
        hidden_size: int = 128,
        dropout: float = 0.0,
        image_size: int = 28,
        num_channels: int = 1,
        **kwargs: Any,
    ) -> None:
        self.channels = list(channels)
        self.hidden_size = hidden_size
        self.dropout = dropout
        self.image_size = image_size
        self.num_channels = num_channels
        super().__init__(**kwargs)


class _Net(PreTrainedModel):
    """`pixel_values` `[batch, channels, size, size]` -> `logits` `[batch, labels]`.

    Its hidden states are the pixels and what comes out of each block, the modules up to one of the kind `block_end`.
    """

    main_input_name = "pixel_values"
    block_end: type[nn.Module]
    layers: nn.Sequential

    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool | None = None
    ) -> ImageClassifierOutputWithNoAttention:
        values, hidden_states = pixel_values, [pixel_values]
        for layer in self.layers:
            values = layer(values)
            if isinstance(layer, self.block_end):
                hidden_states.append(values)
        return ImageClassifierOutputWithNoAttention(
            logits=values, hidden_states=tuple(hidden_states) if output_hidden_states else None
        )


class MLP(_Net):
    config_class = MLPConfig
    block_end = nn.ReLU

    def __init__(self, config: MLPConfig) -> None:
        super().__init__(config)
        layers: list[nn.Module] = [nn.Flatten()]
        width: int = config.num_channels * config.image_size**2
        for hidden in config.hidden_sizes:
            layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(config.dropout)]
            width = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(width, int(config.num_labels or 0)))
        self.post_init()


class CNN(_Net):
    config_class = CNNConfig
    block_end = nn.MaxPool2d

    def __init__(self, config: CNNConfig) -> None:
        super().__init__(config)
        layers: list[nn.Module] = []
        depth = config.num_channels
        for channels in config.channels:
            layers += [nn.Conv2d(depth, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2)]
            depth = channels
        side = config.image_size >> len(config.channels)
        layers += [nn.Flatten(), nn.Linear(depth * side * side, config.hidden_size), nn.ReLU()]
        self.layers = nn.Sequential(
            *layers, nn.Dropout(config.dropout), nn.Linear(config.hidden_size, int(config.num_labels or 0))
        )
        self.post_init()


for _config, _model in ((MLPConfig, MLP), (CNNConfig, CNN)):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModelForImageClassification.register(_config, _model, exist_ok=True)
