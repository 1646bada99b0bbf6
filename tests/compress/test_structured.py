"""The passes that cut units: what every setting does, what they say, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from kdc.compress.base import PASSES
from kdc.compress.gradual import Gradual
from kdc.compress.plan import PrecisionPlan
from kdc.errors import KdcError
from kdc.models.anatomy import layers
from kdc.models.nets import CNN, CNNConfig
from tests.compress import models

LAYERS = [f"bert.encoder.layer.{number}" for number in range(3)]


def sizes(pass_name: str = "prune_ffn", **settings: Any) -> list[int]:
    """Neurons, or heads, that the pass leaves in each layer of a BERT that has 48 and 4."""
    built = models.texts("bert")
    step = PASSES[pass_name](**{"name": pass_name, "score": "l2", **settings})
    rows = models.calibration(built) if step.rows_to_see else None
    done = step.apply(built.model, PrecisionPlan(), rows)
    found = [
        one.feed_forward.neurons if pass_name == "prune_ffn" else one.attention.heads for one in layers(done.model, "x")
    ]
    noun, whole = ("neurons", 48) if pass_name == "prune_ffn" else ("heads", 4)
    changed = [f"{layer}: {whole} -> {size} {noun}" for layer, size in zip(LAYERS, found, strict=True)]
    assert [line for line in changed if line in done.lines] == done.lines
    assert models.answers(built).isfinite().all()
    return found


def test_ratio_is_the_share_that_goes() -> None:
    assert sizes(ratio=0.5, uniform=True) == [24, 24, 24]
    assert sizes(ratio=0.25, uniform=True) == [36, 36, 36]
    assert sum(sizes(ratio=0.25)) == 3 * 48 * 3 // 4
    assert sizes("prune_heads", ratio=0.5, uniform=True) == [2, 2, 2]
    assert sizes("prune_heads", ratio=0.75) == [1, 1, 1], "a layer without heads would be no layer"


@pytest.mark.parametrize(
    ("name", "settings", "rounds"),
    [
        ("prune_heads", {}, 3),
        ("prune_ffn", {"uniform": True, "align": 8}, 8),
        ("prune_ffn", {"ratio": 0.3}, 5),
        ("prune_width", {"ratio": 0.25}, 5),
        ("prune_channels", {"align": 2}, 4),
    ],
)
def test_rounds_end_where_one_cut_would(name: str, settings: dict[str, Any], rounds: int) -> None:
    """What a round has rounded the next one does not add to."""

    def cut(rounds: int) -> list[int]:
        pictures = name == "prune_channels"
        model, whole = ((models.pictures("resnet") if pictures else models.texts("bert")).model for _ in range(2))
        step = PASSES[name].model_validate({"name": name, "score": "l2", **settings, "rounds": rounds, "recover": {}})
        left = [model]
        for number, round_ in enumerate(step.in_rounds()):
            assert isinstance(round_, Gradual)
            left.append((round_.of_whole(whole) if number else round_).apply(left[-1], PrecisionPlan()).model)
        return list(PASSES[name].model_validate({"name": name}).sizes(left[-1]))

    assert sum(cut(rounds)) == sum(cut(1))


def test_heads_that_would_all_go_are_not_pruned() -> None:
    for name, noun in [("prune_heads", "heads"), ("prune_ffn", "neurons")]:
        with pytest.raises(KdcError, match=f"leaves fewer {noun} than layers, and each needs one") as refused:
            sizes(name, ratio=0.995)
        assert "prune_layers" in refused.value.remedy


def test_layers_compete_unless_they_are_uniform() -> None:
    assert len(set(sizes(ratio=0.3, score="fisher"))) > 1
    assert len(set(sizes(ratio=0.3, score="fisher", uniform=True))) == 1


def test_layers_keep_multiples_of_align() -> None:
    free = sizes(ratio=0.3, score="fisher")
    assert sizes(ratio=0.3, score="fisher", align=8) == [max(8, int(np.floor(size / 8 + 0.5)) * 8) for size in free]


@pytest.mark.parametrize("pass_name", ["prune_ffn", "prune_heads"])
def test_scores_choose_differently(pass_name: str) -> None:
    chosen = set()
    for score in ("l2", "activation", "taylor", "fisher"):
        built = models.texts("bert")
        step = PASSES[pass_name](name=pass_name, score=score, ratio=0.5)
        assert step.rows_to_see == (0 if score == "l2" else 512)
        done = step.apply(built.model, PrecisionPlan(), models.calibration(built))
        chosen.add(sum(float(weight.double().sum()) for weight in done.model.state_dict().values()))
    assert len(chosen) == (4 if pass_name == "prune_ffn" else 3), "of four heads a layer, two scores keep the same"


def test_include_and_exclude_name_layers() -> None:
    assert sizes(uniform=True, include=["*.1"]) == [48, 24, 48]
    assert sizes(uniform=True, exclude=["*.1", "*.2"]) == [24, 48, 48]
    assert sizes("prune_heads", uniform=True, include=["*.0", "*.1"], exclude=["*.0"]) == [4, 2, 4]
    for settings, line in [
        ({"include": ["*.7"]}, "compress.prune_ffn.include: '*.7' names none of the modules that prune_ffn would"),
        ({"exclude": ["*"]}, "compress.prune_ffn: include and exclude leave no module to change; exclude fewer"),
    ]:
        with pytest.raises(KdcError) as refused:
            sizes(**settings)
        assert str(refused.value).startswith(line)


def test_a_config_says_what_all_layers_have_and_no_more() -> None:
    for settings, size in [({"uniform": True}, 24), ({"uniform": True, "include": ["*.0"]}, 48)]:
        built = models.texts("bert")
        PASSES["prune_ffn"](name="prune_ffn", score="l2", **settings).apply(built.model, PrecisionPlan())
        assert built.model.config.intermediate_size == size


def test_a_model_without_heads_and_neurons_is_refused() -> None:
    for name in ("prune_ffn", "prune_heads"):
        with pytest.raises(
            KdcError, match=rf"^compress\.{name}: CNN has no stack of layers to choose from; leave the pass out"
        ):
            PASSES[name](name=name).apply(CNN(CNNConfig()), PrecisionPlan(), None)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, 2])
def test_a_ratio_is_between_nothing_and_all(ratio: float) -> None:
    with pytest.raises(ValidationError):
        PASSES["prune_ffn"](name="prune_ffn", ratio=ratio)


def test_rows_to_look_at_are_needed() -> None:
    built = models.texts("bert")
    with pytest.raises(KdcError, match="there is no row to look at"):
        PASSES["prune_ffn"](name="prune_ffn").apply(built.model, PrecisionPlan(), models.calibration(built, 0))
