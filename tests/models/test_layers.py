"""Which layers a student keeps, and that they are the teacher's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kdc.errors import KdcError
from kdc.models.layers import copy_layers, layer_map, layer_stack
from tests import tiny

DEPTH = 4


@pytest.mark.parametrize(
    ("depth", "layers", "pick", "kept"),
    [
        (6, 3, "uniform", [1, 3, 5]),
        (12, 4, "uniform", [2, 5, 8, 11]),
        (12, 5, "uniform", [2, 4, 7, 9, 11]),
        (6, 6, "uniform", [0, 1, 2, 3, 4, 5]),
        (6, 1, "uniform", [5]),
        (6, 2, "top", [4, 5]),
        (6, 2, "bottom", [0, 1]),
        (6, [5, 0], "uniform", [5, 0]),
    ],
)
def test_layer_map(depth: int, layers: Any, pick: str, kept: list[int]) -> None:
    assert layer_map(depth, layers, pick) == kept


@pytest.mark.parametrize("layers", [7, [0, 6], [-1], []])
def test_layers_that_the_teacher_does_not_have_are_refused(layers: Any) -> None:
    with pytest.raises(KdcError, match=r"student\.layers=.*the teacher has"):
        layer_map(6, layers, "uniform")


def models() -> dict[str, Any]:
    from transformers import (
        DistilBertConfig,
        DistilBertForSequenceClassification,
        GPT2Config,
        GPT2ForSequenceClassification,
        ModernBertConfig,
        ModernBertForSequenceClassification,
    )

    torch.manual_seed(0)
    distilbert = DistilBertConfig(
        vocab_size=60, dim=32, hidden_dim=64, n_layers=DEPTH, n_heads=2, max_position_embeddings=32
    )
    gpt2 = GPT2Config(vocab_size=60, n_embd=32, n_layer=DEPTH, n_head=2, n_positions=32, pad_token_id=0)
    modern = ModernBertConfig(
        vocab_size=60, hidden_size=32, intermediate_size=64, num_hidden_layers=DEPTH, num_attention_heads=2,
        max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
    )  # fmt: skip
    return {
        "bert": tiny.bert(60, layers=DEPTH),
        "distilbert": tiny.lively(DistilBertForSequenceClassification(distilbert)),
        "gpt2": tiny.lively(GPT2ForSequenceClassification(gpt2)),
        "modernbert": tiny.lively(ModernBertForSequenceClassification(modern)),
    }


STACKS = {
    "bert": "bert.encoder.layer",
    "distilbert": "distilbert.transformer.layer",
    "gpt2": "transformer.h",
    "modernbert": "model.layers",
}


@pytest.mark.parametrize("name", list(STACKS))
def test_copied_layers_are_the_teachers_and_all_of_them_are_the_teacher(name: str) -> None:
    teacher = models()[name].eval()
    assert layer_stack(teacher) == (STACKS[name], DEPTH)
    kept = [0, 2] if name == "modernbert" else [3, 1]
    student = copy_layers(teacher, kept)
    theirs, ours = teacher.state_dict(), student.state_dict()
    for key, tensor in ours.items():
        if key.startswith(STACKS[name]):
            new, rest = key.removeprefix(STACKS[name] + ".").split(".", 1)
            key = f"{STACKS[name]}.{kept[int(new)]}.{rest}"
        assert torch.equal(tensor, theirs[key]), key
    assert student.config.num_hidden_layers == 2
    assert teacher.config.num_hidden_layers == DEPTH
    inputs = {"input_ids": torch.randint(3, 60, (3, 7)), "attention_mask": torch.ones(3, 7, dtype=torch.int64)}
    with torch.no_grad():
        wanted = teacher(**inputs).logits
        assert student.eval()(**inputs).logits.shape == wanted.shape
        torch.testing.assert_close(copy_layers(teacher, range(DEPTH)).eval()(**inputs).logits, wanted, rtol=0, atol=0)


def test_layers_that_are_not_alike_cannot_trade_places() -> None:
    with pytest.raises(KdcError, match=r"student\.layers=\[3, 1\]: the layers of ModernBert.* keep layer 0"):
        copy_layers(models()["modernbert"], [3, 1])


def test_the_copy_shares_no_memory_with_the_teacher() -> None:
    teacher = tiny.bert(60)
    student = copy_layers(teacher, [0])
    with torch.no_grad():
        student.classifier.weight.zero_()
    assert teacher.classifier.weight.abs().sum() > 0


def test_a_model_without_layers_says_so() -> None:
    from kdc.models.nets import MLP, MLPConfig

    with pytest.raises(KdcError, match=r"student\.layers: MLP has no stack of layers"):
        layer_stack(MLP(MLPConfig()))


def test_stages_are_no_layers_to_choose_from() -> None:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    model = ConvNextForImageClassification(ConvNextConfig(hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1]))
    with pytest.raises(KdcError, match=r"student\.layers: ConvNext.* has no stack of layers"):
        layer_stack(model)
