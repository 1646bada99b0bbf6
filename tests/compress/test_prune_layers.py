"""Whole layers: influence by hand, which stay, models that were cut before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdc.compress.base import PASSES
from kdc.compress.plan import PrecisionPlan
from kdc.errors import KdcError
from kdc.models.build import Built, load_model, save_model
from kdc.models.layers import layer_stack
from tests import tiny
from tests.compress import models


def pruned(built: Built, **settings: Any) -> tuple[Any, list[str]]:
    step = PASSES["prune_layers"](name="prune_layers", **settings)
    done = step.apply(built.model, PrecisionPlan(), models.calibration(built) if step.rows_to_see else None)
    return done.model, done.lines


@pytest.mark.parametrize("family", ["bert", "gpt2", "distilbert"])
def test_influence_is_what_a_layer_turns(family: str) -> None:
    """Row by row without padding, in NumPy, from hidden states that `transformers` gives."""
    built = models.texts(family)
    cosines: list[list[np.ndarray]] = [[], [], []]
    for row in built.encoder.encode(models.ROWS):
        arrays = built.encoder.collate([row])
        inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
        states = [s[0].detach().numpy() for s in built.model(**inputs, output_hidden_states=True).hidden_states]
        for number in range(3 if family != "gpt2" else 2):  # GPT-2's last has been normalized
            one, other = states[number], states[number + 1]
            norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
            cosines[number].append((one * other).sum(axis=1) / norms)
    name, _ = layer_stack(built.model)
    found = models.calibration(built).influences(built.model, [f"{name}.{number}" for number in range(3)])
    for number in range(3 if family != "gpt2" else 2):
        assert found[number] == pytest.approx(1 - np.concatenate(cosines[number]).mean(), abs=1e-5)
    _, lines = pruned(built, ratio=0.3)
    kept = sorted(np.argsort(found)[1:].tolist())
    assert lines[-1] == f"3 -> 2 layers: {kept[0]}, {kept[1]} stay"
    assert lines[0] == f"{name}.0: influence {found[0]:.3g}"


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("score", ["taylor", "fisher"])
def test_taylor_and_fisher_are_slopes_of_fading_a_layer_out(family: str, score: str) -> None:
    """Row by row without padding, the layers faded out a little and back in, in 64 bits."""
    built = models.texts(family)
    name, _ = layer_stack(built.model)
    layers = list(built.model.get_submodule(name))
    mask = [1.0, 1.0, 1.0]

    def faded(number: int) -> Any:
        def hook(module: Any, inputs: Any, settings: Any, output: Any) -> Any:
            read = inputs[0] if inputs else settings["hidden_states"]
            said = output[0] if isinstance(output, tuple) else output
            left = read + mask[number] * (said - read)
            return (left, *output[1:]) if isinstance(output, tuple) else left

        return hook

    hooks = [layer.register_forward_hook(faded(i), with_kwargs=True) for i, layer in enumerate(layers)]
    built.model.double()
    slopes = np.zeros((len(models.ROWS), 3))
    for row, encoded in enumerate(built.encoder.encode(models.ROWS)):
        inputs = {key: torch.from_numpy(array) for key, array in built.encoder.collate([encoded]).items()}
        label = torch.tensor([models.ROWS["label"][row]])
        for number in range(3):
            losses = []
            for step in (1e-4, -1e-4):
                mask[number] = 1 + step
                with torch.no_grad():
                    losses.append(float(torch.nn.functional.cross_entropy(built.model(**inputs).logits, label)))
            mask[number] = 1.0
            slopes[row, number] = (losses[0] - losses[1]) / 2e-4
    for hook in hooks:
        hook.remove()
    built.model.float()
    wanted = (np.abs(slopes) if score == "taylor" else slopes**2).mean(axis=0)
    step = PASSES["prune_layers"](name="prune_layers", score=score)
    found = step._worth(built.model, [f"{name}.{i}" for i in range(3)], models.calibration(built))
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-9)
    _, lines = pruned(built, ratio=0.3, score=score)
    kept = sorted(np.argsort(wanted)[1:].tolist())
    assert lines[-1] == f"3 -> 2 layers: {kept[0]}, {kept[1]} stay"


@pytest.mark.parametrize(("score", "power"), [("l1", 1), ("l2", 2)])
def test_norms_of_layers_are_over_their_weights(score: str, power: int) -> None:
    built = models.texts("bert")
    worth = []
    for layer in built.model.bert.encoder.layer:
        flat = np.concatenate([p.detach().numpy().ravel() for p in layer.parameters() if p.ndim > 1]).astype(np.float64)
        worth.append((np.abs(flat) ** power).mean() ** (1 / power))
    _, lines = pruned(built, ratio=0.3, score=score)
    assert lines[:3] == [f"bert.encoder.layer.{i}: {score} {value:.3g}" for i, value in enumerate(worth)]
    kept = sorted(np.argsort(worth)[1:].tolist())
    assert lines[-1] == f"3 -> 2 layers: {kept[0]}, {kept[1]} stay"


def test_places_say_which_stay() -> None:
    for score, kept in {"top": "1, 2", "bottom": "0, 1", "uniform": "1, 2"}.items():
        assert pruned(models.texts("bert"), ratio=0.3, score=score)[1] == [f"3 -> 2 layers: {kept} stay"]
    assert pruned(models.texts("bert"), ratio=0.99, score="top")[1] == ["3 -> 1 layers: 2 stay"]
    assert pruned(models.texts("bert"), ratio=0.01, score="bottom")[1] == ["3 -> 2 layers: 0, 1 stay"]


def test_include_and_exclude_name_layers_that_may_go() -> None:
    for settings, kept in [
        ({"score": "top", "exclude": ["*.0"]}, "0, 2"),
        ({"score": "bottom", "include": ["*.1", "*.2"]}, "0, 1"),
        ({"score": "uniform", "ratio": 0.6, "exclude": ["*.1"]}, "1"),
        ({"exclude": ["*.0", "*.1"]}, "0, 1"),
    ]:
        lines = pruned(models.texts("bert"), **{"ratio": 0.3, **settings})[1]
        assert lines[-1].endswith(f"layers: {kept} stay")
        assert len(lines) == (1 if "score" in settings else 2)
    with pytest.raises(KdcError, match=r"ratio=0.6 takes 2 of 3 layers, but include and exclude leave 1 that may go"):
        pruned(models.texts("bert"), ratio=0.6, score="top", include=["*.2"])


@pytest.mark.parametrize("family", ["bert", "gpt2", "distilbert"])
def test_a_layers_parameters_go_with_it(family: str) -> None:
    built = models.texts(family)
    before = sum(p.numel() for p in built.model.parameters())
    model, _ = pruned(built, ratio=0.3, score="top")
    layer = 4 * (32 * 32 + 32) + 2 * 32 * 48 + 48 + 32 + 2 * 2 * 32  # attention, feed-forward part, two norms
    assert before - sum(p.numel() for p in model.parameters()) == layer


def test_the_first_layer_of_a_bilstm_stays() -> None:
    """It reads embeddings, the others what two directions say."""

    def net() -> Built:
        return tiny.built_text_net(models.ROWS, "bilstm", embedding_size=12, hidden_size=8, num_hidden_layers=3)

    with pytest.raises(KdcError, match=r"first layer of a BiLSTM reads another width.*exclude='\[layers\.0\]'"):
        pruned(net(), score="taylor")
    for score in ("influence", "taylor", "l1", "top"):
        built = net()
        _, lines = pruned(built, ratio=0.6, score=score, exclude=["layers.0"])
        assert lines[-1] == "3 -> 1 layers: 0 stay"
        assert models.answers(built).isfinite().all()


def test_what_follows_is_checked_against_the_layers_that_will_be_left() -> None:
    built = models.texts("bert")
    step = PASSES["prune_layers"](name="prune_layers", ratio=0.3)
    step.outline(built.model)
    assert len(built.model.bert.encoder.layer) == 2
    with pytest.raises(KdcError, match=r"'\*\.2' names none"):
        PASSES["share"](name="share", include=["*.1", "*.2"]).targets(built.model)


def test_a_stack_of_one_is_refused() -> None:
    built = tiny.built_bert(models.ROWS, layers=1)
    with pytest.raises(KdcError, match="the model has one layer; leave the pass out"):
        PASSES["prune_layers"](name="prune_layers", score="top").apply(built.model, PrecisionPlan())


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "gpt2"])
def test_what_is_left_answers_and_loads(family: str, tmp_path: Path) -> None:
    built = models.texts(family)
    PASSES["prune_ffn"](name="prune_ffn", score="l2", include=["*.2"]).apply(built.model, PrecisionPlan())
    model, _ = pruned(built, ratio=0.3, score="top")
    assert model.config.num_hidden_layers == len(model.get_submodule(layer_stack(model)[0])) == 2
    save_model(Built(model, built.encoder, new_head=False), tmp_path)
    again = load_model(tmp_path, tiny.task())
    torch.testing.assert_close(models.answers(again), models.answers(built), rtol=0, atol=0)
