"""The plain nets for texts: what they compute, that padding never shows, and that they save and load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

import kdc.models.nets  # noqa: F401  (registers the nets for images)
from kdc.models.spec import PLAIN_NETS
from kdc.models.taps import LENGTH, ROWS, outline
from kdc.models.text_nets import BiLSTM, BiLSTMConfig, BothWays, TextCNN, TextCNNConfig
from tests import tiny

LENGTHS = (7, 1, 4, 2)
VOCABULARY = 20
NETS: dict[str, dict[str, Any]] = {
    "last": {},
    "max": {"pooling": "max"},
    "mean": {"pooling": "mean"},
    "deep": {"num_hidden_layers": 3},
    "cnn": {"widths": [2, 3, 9]},
}


def net(name: str) -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "embedding_size": 6, "num_labels": 3, **NETS[name]}
    if name == "cnn":
        return tiny.lively(TextCNN(TextCNNConfig(filters=4, **sizes)).eval(), scale=1.0)
    return tiny.lively(BiLSTM(BiLSTMConfig(hidden_size=5, classifier_size=7, **sizes)).eval(), scale=1.0)


def rows() -> tuple[Tensor, Tensor]:
    """Random tokens, those behind a row's length too: what stands there must not matter."""
    tokens = torch.randint(0, VOCABULARY, (len(LENGTHS), max(LENGTHS)), generator=torch.Generator().manual_seed(1))
    return tokens, (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()


@pytest.mark.parametrize("name", NETS)
def test_a_row_is_answered_alone_as_in_a_padded_batch(name: str) -> None:
    model = net(name)
    tokens, mask = rows()
    with torch.no_grad():
        together = model(tokens, mask).logits
        assert together.std(dim=0).min() > 0.1, "the rows must differ for padding to show"
        for row, length in enumerate(LENGTHS):
            alone = model(tokens[row : row + 1, :length]).logits[0]
            torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_tokens_of_a_row_matter_from_the_first_to_the_last(name: str) -> None:
    model = net(name)
    tokens, mask = rows()
    embedded = model.get_input_embeddings()(tokens).detach().requires_grad_()
    with model.get_input_embeddings().register_forward_hook(lambda *_: embedded):
        (gradient,) = torch.autograd.grad(model(tokens, mask).logits.square().sum(), embedded)
    seen = gradient.abs().sum(dim=-1) > 0  # [rows, length]
    if name not in ("max", "cnn"):  # of those, a token may win nowhere
        assert seen.equal(mask.bool())
    assert not (seen & ~mask.bool()).any()
    assert seen.any(dim=1).all()


@pytest.mark.parametrize("name", NETS)
def test_a_row_without_tokens_has_an_answer(name: str) -> None:
    tokens, mask = rows()
    mask[1] = 0
    with torch.no_grad():
        assert net(name)(tokens, mask).logits.isfinite().all()


def test_both_ways_are_a_bidirectional_lstm_on_packed_rows() -> None:
    torch.manual_seed(0)
    layer, reference = BothWays(6, 5), nn.LSTM(6, 5, batch_first=True, bidirectional=True)
    ahead = dict(layer.ahead.state_dict())
    back = {f"{name}_reverse": weight for name, weight in layer.back.state_dict().items()}
    reference.load_state_dict(ahead | back)
    values, lengths = torch.randn(4, 7, 6), torch.tensor(LENGTHS)
    packed = pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)
    wanted, _ = pad_packed_sequence(reference(packed)[0], batch_first=True)
    places = torch.arange(7).expand(4, 7)
    mirror = torch.where(places < lengths[:, None], lengths[:, None] - 1 - places, places)
    found = layer(values, mirror)
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(found[row, :length], wanted[row, :length], rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["last", "max", "mean"])
def test_pooling_by_hand(pooling: str) -> None:
    model = net(pooling)
    tokens, mask = rows()
    with torch.no_grad():
        said = model(tokens, mask, output_hidden_states=True)
        states = said.hidden_states[-1].numpy()
        for row, length in enumerate(LENGTHS):
            own = states[row, :length]  # [length, 2 units]
            ends = np.concatenate([own[-1, :5], own[0, 5:]])
            pooled = {"last": ends, "max": own.max(axis=0), "mean": own.mean(axis=0)}[pooling]
            wanted = model.classifier(torch.relu(model.dense(torch.from_numpy(pooled))))
            torch.testing.assert_close(said.logits[row], wanted, rtol=0, atol=1e-5)


def test_the_convolutional_net_by_hand() -> None:
    """Equations 2 to 4 of Kim 2014 with zeros around a row: feature = max over windows of relu(w . window + b)."""
    model = net("cnn")
    tokens, mask = rows()
    with torch.no_grad():
        found = model(tokens, mask).logits.numpy()
    embeddings = model.embeddings.weight.detach().numpy()
    for row, length in enumerate(LENGTHS):
        features = []
        for width, convolution in zip((2, 3, 9), model.convolutions, strict=True):
            weight, bias = (parameter.detach().numpy() for parameter in convolution.parameters())
            before, behind = np.zeros(((width - 1) // 2, 6)), np.zeros((width // 2, 6))
            padded = np.concatenate([before, embeddings[tokens[row, :length].numpy()], behind])
            windows = [padded[place : place + width].T for place in range(length)]  # [embedding, width]
            maps = np.array([np.einsum("few,ew->f", weight, window) + bias for window in windows])
            features.append(np.maximum(maps, 0).max(axis=0))
        head, bias = (parameter.detach().numpy() for parameter in model.classifier.parameters())
        np.testing.assert_allclose(found[row], head @ np.concatenate(features) + bias, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_saves_and_loads_with_all_that_it_computes(name: str, tmp_path: Path) -> None:
    model = net(name)
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(again) is type(model)
    tokens, mask = rows()
    with torch.no_grad():
        torch.testing.assert_close(again(tokens, mask).logits, model(tokens, mask).logits, rtol=0, atol=0)


def test_parameters_by_hand() -> None:
    def parameters(model: nn.Module) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    direction = 4 * 5 * (6 + 5) + 2 * 4 * 5  # four gates, from input and state, two biases
    upper = 4 * 5 * (10 + 5) + 2 * 4 * 5
    assert parameters(net("deep")) == 20 * 6 + 2 * direction + 4 * upper + (10 * 7 + 7) + (7 * 3 + 3)
    assert parameters(net("cnn")) == 20 * 6 + 6 * 4 * (2 + 3 + 9) + 3 * 4 + (12 * 3 + 3)


@pytest.mark.parametrize(("name", "widths"), [("deep", [6, 10, 10, 10]), ("cnn", [6, 12])])
def test_what_the_nets_say_of_themselves(name: str, widths: list[int]) -> None:
    signals = {"logits", "hidden_states", "attentions", "features", "input_embeddings", "input_gradients"}
    seen = outline(net(name), signals, name=name)
    assert seen.shapes["hidden_states"] == tuple((ROWS, LENGTH, width) for width in widths)
    assert seen.shapes["features"] == ((ROWS, 7 if name == "deep" else 12),)
    assert seen.shapes["input_gradients"] == seen.shapes["input_embeddings"] == ((ROWS, LENGTH, 6),)
    assert "attentions" not in seen
    model = net(name)
    said = model(*rows(), output_hidden_states=True)
    torch.testing.assert_close(said.hidden_states[0][0], model.embeddings(rows()[0][0]))
    assert model(*rows()).hidden_states is None


@pytest.mark.parametrize("kind", [BiLSTM, TextCNN])
def test_dropout_is_where_the_config_says(kind: Any) -> None:
    torch.manual_seed(0)
    tokens, mask = rows()
    for dropout in (0.0, 0.5):
        model = kind(kind.config_class(vocab_size=VOCABULARY, dropout=dropout)).train()
        assert model(tokens, mask).logits.equal(model(tokens, mask).logits) == (dropout == 0.0)


@pytest.mark.parametrize("kind", [BiLSTM, TextCNN])
def test_a_new_net_tells_rows_apart(kind: Any) -> None:
    """With transformers' own initialization they hardly differ: their answers spread over a hundredth."""
    torch.manual_seed(0)
    model = kind(kind.config_class(vocab_size=VOCABULARY)).eval()
    with torch.no_grad():
        assert model(*rows()).logits.std(dim=0).min() > 0.02


def test_a_pooling_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pooling must be one of last, max, mean \(got 'sum'\)"):
        AutoConfig.for_model("kdc-bilstm", pooling="sum")


def test_the_plain_nets_are_those_that_are_registered() -> None:
    families = {"image": AutoModelForImageClassification, "text": AutoModelForSequenceClassification}
    for model_type, modality in PLAIN_NETS.items():
        model = families[modality].from_config(AutoConfig.for_model(model_type))
        assert model.main_input_name == {"image": "pixel_values", "text": "input_ids"}[modality]
