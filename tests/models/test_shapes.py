"""Models whose shapes are not their config's: they load again as they were, and whatever was tampered with does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdc.compress.base import PASSES
from kdc.compress.plan import PrecisionPlan
from kdc.errors import KdcError
from kdc.models.build import Built, load_model, save_model
from kdc.models.shapes import SHAPES, Factorized, differing
from tests import tiny
from tests.compress import models


def pruned(family: str, name: str, **settings: Any) -> Built:
    """By halves, the first layer alone unless `settings` say otherwise."""
    settings = {"include": ["*.0"], **settings}
    built = models.texts(family)
    done = PASSES[name](name=name, score="l2", **settings).apply(built.model, PrecisionPlan())
    return Built(done.model, built.encoder, new_head=False)


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "gpt2"])
@pytest.mark.parametrize("name", ["prune_ffn", "prune_heads"])
def test_a_cut_model_loads_as_it_was(name: str, family: str, tmp_path: Path) -> None:
    built = pruned(family, name)
    save_model(built, tmp_path)
    assert set(json.loads((tmp_path / SHAPES).read_text())["tensors"]) == set(differing(built.model))
    again = load_model(tmp_path, tiny.task())
    assert type(again.model) is type(built.model)
    assert not again.model.training
    torch.testing.assert_close(models.answers(again), models.answers(built), rtol=0, atol=0)
    assert differing(again.model) == differing(built.model)
    again.model.train()
    again.model(**models.batch(again)).logits.sum().backward()
    assert all(p.grad is not None for p in again.model.parameters() if p.requires_grad)


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2"])
def test_uniform_neurons_leave_a_plain_model(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    built = pruned(family, "prune_ffn", uniform=True, ratio=0.25, include=[])
    assert differing(built.model) == {}
    save_model(built, tmp_path)
    assert not (tmp_path / SHAPES).exists()
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(models.answers(Built(again, built.encoder, new_head=False)), models.answers(built))


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "gpt2"])
def test_what_was_factorized_loads_as_two(family: str, tmp_path: Path) -> None:
    built = models.texts(family)
    step = PASSES["svd"](name="svd", method="plain", rank=3, embeddings=True, exclude=["*.0.*"])
    step.apply(built.model, PrecisionPlan())
    pairs = [name for name, module in built.model.named_modules() if isinstance(module, Factorized)]
    assert len(pairs) > 5
    save_model(built, tmp_path)
    again = load_model(tmp_path, tiny.task())
    assert [name for name, module in again.model.named_modules() if isinstance(module, Factorized)] == pairs
    torch.testing.assert_close(models.answers(again), models.answers(built))


def test_what_was_cut_twice_loads_too(tmp_path: Path) -> None:
    built = pruned("gpt2", "prune_ffn")
    done = PASSES["prune_heads"](name="prune_heads", score="l2").apply(built.model, PrecisionPlan())
    save_model(Built(done.model, built.encoder, new_head=False), tmp_path)
    again = load_model(tmp_path, tiny.task())
    torch.testing.assert_close(models.answers(again), models.answers(built), rtol=0, atol=0)


@pytest.mark.parametrize("how", ["another shape", "another name", "another format"])
def test_files_that_do_not_fit_are_refused(how: str, tmp_path: Path) -> None:
    save_model(pruned("bert", "prune_ffn"), tmp_path)
    tensors, noted = load_file(tmp_path / "model.safetensors"), json.loads((tmp_path / SHAPES).read_text())
    name = next(iter(noted["tensors"]))
    if how == "another shape":
        tensors[name] = torch.zeros(3, 32)
    elif how == "another name":
        tensors["bert.pooler.another"] = torch.zeros(3)
    else:
        noted["format"] = 1
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / SHAPES).write_text(json.dumps(noted))
    with pytest.raises(KdcError, match=r"has not the shape|are of no BertFor|format 1 is not this kdc's"):
        load_model(tmp_path, tiny.task())
