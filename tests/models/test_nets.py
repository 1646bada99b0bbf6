"""The plain nets: their shapes, and that they save and load as `transformers` models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageClassification

from kdc.models.nets import CNN, MLP, CNNConfig, MLPConfig

MODELS = {
    "mlp": lambda: MLP(MLPConfig(image_size=8, num_channels=3, hidden_sizes=[16, 12], num_labels=5)),
    "cnn": lambda: CNN(CNNConfig(image_size=8, num_channels=3, channels=[4, 6], hidden_size=10, num_labels=5)),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_saves_and_loads_with_all_that_it_computes(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    pixels = torch.randn(4, 3, 8, 8)
    model(pixel_values=pixels)  # moves the batch norm's statistics, which must be saved too
    model.eval().save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        wanted = model(pixel_values=pixels).logits
        assert wanted.shape == (4, 5)
        torch.testing.assert_close(again(pixel_values=pixels).logits, wanted, rtol=0, atol=0)


def test_parameters_by_hand() -> None:
    def parameters(model: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    assert parameters(MODELS["mlp"]()) == (192 * 16 + 16) + (16 * 12 + 12) + (12 * 5 + 5)
    convolutions = (3 * 4 * 9 + 4) + 2 * 4 + (4 * 6 * 9 + 6) + 2 * 6
    assert parameters(MODELS["cnn"]()) == convolutions + (6 * 2 * 2 * 10 + 10) + (10 * 5 + 5)


def test_dropout_is_where_the_config_says() -> None:
    torch.manual_seed(0)
    pixels = torch.randn(2, 1, 8, 8)
    for model in (
        MLP(MLPConfig(image_size=8, dropout=0.5)),
        CNN(CNNConfig(image_size=8, channels=[4], dropout=0.5)),
    ):
        model.train()
        assert not torch.equal(model(pixel_values=pixels).logits, model(pixel_values=pixels).logits)
