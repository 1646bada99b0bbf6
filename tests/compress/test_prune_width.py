"""Hidden width: which parts are cut, that the rest computes what it did on what is left, and scores by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import layer_norm

from kdc.compress.base import PASSES
from kdc.compress.plan import PrecisionPlan
from kdc.compress.prune_width import PruneWidth, importance
from kdc.errors import KdcError
from kdc.models.build import Built
from kdc.models.residual import Residual, residual
from kdc.models.shapes import load_cut, outputs_first, save_cut
from tests import tiny
from tests.compress import models

FAMILIES = ["bert", "roberta", "electra", "distilbert", "gpt2"]


def step(**settings: Any) -> PruneWidth:
    return PruneWidth(**{"name": "prune_width", "ratio": 0.25, "score": "l2", **settings})


def on(model: Any, kept: torch.Tensor, stream: Residual) -> None:
    """Let a whole model compute as one without the other dimensions, in which all that it adds up is zero."""
    held = torch.zeros(stream.width).index_fill(0, kept, 1)
    for name, module in model.named_modules():
        if name in stream.writers:
            module.register_forward_hook(lambda module, inputs, output: output * held)
        if name in stream.norms:

            def forward(read: torch.Tensor, own: Any = module) -> torch.Tensor:
                part = layer_norm(read[..., kept], (len(kept),), own.weight[kept], own.bias[kept], own.eps)
                return torch.zeros_like(read).index_copy(-1, kept, part)

            module.forward = forward


@pytest.mark.parametrize("name", FAMILIES)
def test_a_narrow_model_computes_what_norms_of_fewer_dimensions_leave(name: str) -> None:
    whole, built = models.texts(name), models.texts(name)
    stream = residual(built.model, "here")
    worth = importance(built.model, stream, "l2", None)
    kept = torch.from_numpy(np.sort(np.argsort(-worth, kind="stable")[:24]))
    done = step().apply(built.model, PrecisionPlan())
    assert done.lines == ["width: 32 -> 24"]
    on(whole.model, kept, stream)
    torch.testing.assert_close(models.answers(built), models.answers(whole), rtol=1e-4, atol=1e-5)


def test_every_parameter_of_that_width_is_cut() -> None:
    """A BERT of 3 layers, 32 wide, 48 neurons: counted by hand for 24 dimensions."""
    built = models.texts("bert")
    tokens = built.encoder.vocab_size
    step().apply(built.model, PrecisionPlan())
    layer = 3 * (24 * 32 + 32) + (32 * 24 + 24) + (24 * 48 + 48) + (48 * 24 + 24) + 2 * 2 * 24
    embeddings = (tokens + 40 + 2) * 24 + 2 * 24
    head = (24 * 32 + 32) + (32 * 2 + 2)
    assert sum(p.numel() for p in built.model.parameters()) == embeddings + 3 * layer + head


@pytest.mark.parametrize("name", FAMILIES)
def test_a_narrow_model_is_saved_and_loaded(name: str, tmp_path: Any) -> None:
    built = models.texts(name)
    step().apply(built.model, PrecisionPlan())
    said = models.answers(built)
    assert save_cut(built.model, tmp_path)
    again = load_cut(tmp_path, type(built.model), built.model.config)
    torch.testing.assert_close(models.answers(Built(again, built.encoder, new_head=False)), said)


def test_vision_transformers_have_it_too() -> None:
    import transformers as hf

    config = hf.ViTConfig(
        image_size=8, patch_size=4, num_channels=1, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48,
    )  # fmt: skip
    model = tiny.lively(hf.ViTForImageClassification(config).eval(), scale=0.2)
    step(ratio=0.5).apply(model, PrecisionPlan())
    assert model(torch.rand(2, 1, 8, 8)).logits.shape == (2, 2)
    assert model.vit.embeddings.cls_token.shape[-1] == 16


def test_scores_by_hand() -> None:
    built = models.texts("bert")
    rows = models.calibration(built)
    stream = residual(built.model, "here")

    def weight(name: str) -> np.ndarray:
        module: Any = built.model.get_submodule(name)
        return outputs_first(module, module.weight.detach()).double().numpy()

    for power, score in ((1, "l1"), (2, "l2")):
        wanted = sum((np.abs(weight(name)) ** power).sum(axis=0) for name in stream.readers)
        wanted = wanted + sum((np.abs(weight(name)) ** power).sum(axis=1) for name in stream.writers)
        np.testing.assert_allclose(importance(built.model, stream, score, None), wanted ** (1 / power))  # type: ignore[arg-type]
    squares = np.zeros(32)
    for batch in rows.inputs_of(built.model, list(stream.readers)):
        for name, states in batch.items():
            squares += states.double().square().sum(dim=0).numpy() * np.square(weight(name)).sum(axis=0)
    np.testing.assert_allclose(importance(built.model, stream, "activation", rows), np.sqrt(squares), rtol=1e-5)


def test_masks_on_the_stream_by_finite_differences() -> None:
    """What a mask on one dimension of every reader's input changes of each row's loss: its size, or its square."""
    built = models.texts("bert")
    rows = models.calibration(built, 3)
    stream = residual(built.model, "here")
    taylor, fisher = (importance(built.model, stream, score, rows) for score in ("taylor", "fisher"))
    labels = torch.from_numpy(models.ROWS["label"][:3])

    def losses(dimension: int, size: float) -> torch.Tensor:
        hooks = []
        for name in stream.readers:

            def scaled(module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
                read = inputs[0].clone()
                read[..., dimension] *= size
                return (read,)

            hooks.append(built.model.get_submodule(name).register_forward_pre_hook(scaled))
        said = models.answers(built, 3)
        for hook in hooks:
            hook.remove()
        return nn.functional.cross_entropy(said.double(), labels, reduction="none")

    for dimension in (0, 7, 31):
        slopes = (losses(dimension, 1.01) - losses(dimension, 0.99)) / 0.02
        assert taylor[dimension] == pytest.approx(float(slopes.abs().mean()), rel=0.05, abs=1e-4)
        assert fisher[dimension] == pytest.approx(float(slopes.square().mean()), rel=0.1, abs=1e-6)


def test_settings_choose_otherwise() -> None:
    chosen = set()
    for score in ("l1", "l2", "activation", "taylor", "fisher"):
        built = models.texts("bert")
        one = step(score=score, calibration_rows=11)
        assert one.rows_to_see == (0 if score in ("l1", "l2") else 11)
        one.apply(built.model, PrecisionPlan(), models.calibration(built))
        chosen.add(models.answers(built).sum().item())
    assert len(chosen) >= 4
    assert step(ratio=0.4, align=1).apply(models.texts("bert").model, PrecisionPlan()).lines == ["width: 32 -> 19"]
    assert step(ratio=0.4, align=8).apply(models.texts("bert").model, PrecisionPlan()).lines == ["width: 32 -> 16"]


def test_models_without_a_known_stream_are_refused() -> None:
    built = tiny.built_text_net(models.ROWS, "bilstm")
    with pytest.raises(KdcError, match=r"compress\.prune_width"):
        PASSES["prune_width"](name="prune_width").apply(built.model, PrecisionPlan())
