"""Channels: groups, scores in NumPy, cut models against masked ones, residual nets, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, unfold
from transformers import AutoModelForImageClassification

from kdc.compress.base import PASSES
from kdc.compress.calibration import Calibration
from kdc.compress.plan import PrecisionPlan
from kdc.compress.prune_channels import PruneChannels, _groups, scores
from kdc.compress.units import Score
from kdc.errors import KdcError
from kdc.models.build import Built, load_model, save_model
from kdc.models.shapes import differing
from tests import tiny
from tests.compress import models

pytest.importorskip("torch_pruning")
ROWS = models.PICTURES


def cnn() -> Built:
    return tiny.built_net(ROWS, "cnn")


def resnet(layer_type: str = "basic") -> Built:
    return models.pictures("resnet", layer_type)


def batch(built: Built) -> torch.Tensor:
    arrays = built.encoder.collate(built.encoder.encode(ROWS))
    return torch.from_numpy(arrays["pixel_values"])


def logits(built: Built) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = built.model(pixel_values=batch(built)).logits
    return found


def pruned(built: Built, **settings: Any) -> list[str]:
    step = PruneChannels(name="prune_channels", **settings)
    rows = Calibration(tiny.task("image-classification"), built.encoder, ROWS) if step.rows_to_see else None
    done = step.apply(built.model, PrecisionPlan(), rows)
    assert logits(built).isfinite().all()
    return done.lines


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("score", ["l1", "l2", "taylor", "fisher", "activation"])
def test_scores_are_of_the_weights_that_make_and_read_a_channel(score: Score, place: int) -> None:
    """The first convolution of the net is read by the second, the last by a linear, each channel at several places."""
    built = cnn()
    convolutions = [(n, m) for n, m in built.model.named_modules() if isinstance(m, nn.Conv2d)]
    name, made = convolutions[place]
    linear = next(module for module in built.model.modules() if isinstance(module, nn.Linear))
    reader: Any = convolutions[1][1] if place == 0 else linear
    count = made.out_channels

    def by_channel(weight: torch.Tensor) -> np.ndarray:
        """The reader's weights or what it reads, `[any, channels, places]`."""
        return weight.detach().double().reshape(len(weight), count, -1).numpy()

    def slopes(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Sums of w * dL/dw of what makes and what reads each channel, L the mean loss over these rows."""
        built.model.zero_grad()
        answers = built.model(pixel_values=batch(built)[rows]).logits
        cross_entropy(answers, torch.from_numpy(ROWS["label"][rows])).backward()
        own = (made.weight * made.weight.grad).detach().double().flatten(1).sum(1).numpy()
        return own, by_channel(reader.weight * reader.weight.grad).sum((0, 2))

    if score == "taylor":
        wanted = np.abs(sum(slopes(slice(None))))
    elif score == "fisher":
        wanted = np.mean([slopes(slice(row, row + 1))[1] ** 2 for row in range(len(ROWS))], axis=0)
    elif score == "activation":
        seen: list[torch.Tensor] = []
        reader.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        logits(built)
        read = torch.cat(seen)
        if place == 0:  # the patches under the kernel
            patches = unfold(read, reader.kernel_size, padding=reader.padding, stride=reader.stride)
            read = patches.transpose(1, 2).flatten(0, 1)
        wanted = np.sqrt((np.square(by_channel(read)).mean(0) * np.square(by_channel(reader.weight))).sum((0, 2)))
    else:
        power = 1 if score == "l1" else 2
        sums = (made.weight.detach().double().abs() ** power).flatten(1).sum(1).numpy()
        norms = (sums + (np.abs(by_channel(reader.weight)) ** power).sum((0, 2))) ** (1 / power)
        wanted = norms / norms.mean()
    rows = Calibration(tiny.task("image-classification"), built.encoder, ROWS)
    groups = _groups(built.model)[1]
    found = scores(built.model, list(groups.values()), score, rows)
    np.testing.assert_allclose(found[list(groups).index(name)], wanted, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("layer_type", ["basic", "bottleneck"])
def test_a_cut_net_answers_as_one_whose_channels_are_silent(layer_type: str, tmp_path: Path) -> None:
    """Silent: what makes a channel puts out zero after its batch norm, wherever a shortcut adds it up."""
    built, silenced = resnet(layer_type), resnet(layer_type)
    before = dict(built.model.named_modules())
    lines = pruned(built, ratio=0.5)
    assert lines
    masks: dict[str, torch.Tensor] = {}
    for name, module in built.model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            whole = silenced.model.get_submodule(name)
            # running means are drawn at random: each is a name for its channel
            kept = torch.isin(whole.running_mean, module.running_mean)
            assert int(kept.sum()) == module.num_features
            masks[name] = kept
    for name, kept in masks.items():
        norm = silenced.model.get_submodule(name)
        with torch.no_grad():
            norm.weight[~kept] = 0
            norm.bias[~kept] = 0
    torch.testing.assert_close(logits(built), logits(silenced), rtol=1e-4, atol=1e-5)
    sizes = {line.partition(":")[0]: line for line in lines}
    assert all(isinstance(before[name], nn.Conv2d) for name in sizes)
    save_model(built, tmp_path)
    again = load_model(tmp_path, tiny.task("image-classification"))
    torch.testing.assert_close(logits(again), logits(built), rtol=0, atol=0)
    assert differing(again.model) == differing(built.model)


@pytest.mark.parametrize("make", [cnn, resnet, partial(resnet, "bottleneck")])
def test_a_uniform_net_stays_a_plain_one(make: Callable[[], Built], tmp_path: Path) -> None:
    """transformers loads it, by its config alone."""
    built = make()
    pruned(built, ratio=0.5)
    built.model.save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    pixels = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(again.eval()(pixels).logits, built.model(pixels).logits)


@pytest.mark.parametrize("settings", [{"uniform": False, "ratio": 0.4}, {"exclude": ["*.stages.1.layers.1.layer.0.*"]}])
def test_what_the_config_cannot_say_is_left_out_of_it(settings: dict[str, Any], tmp_path: Path) -> None:
    built = resnet()
    before = built.model.config.to_dict()
    pruned(built, **settings)
    assert differing(built.model)
    assert built.model.config.to_dict() == before


def test_half_of_the_channels_are_half_of_every_group() -> None:
    built = resnet()
    assert {line.partition(": ")[2] for line in pruned(built, ratio=0.5)} == {"8 -> 4 channels", "16 -> 8 channels"}
    assert built.model.config.num_labels == built.model.classifier[1].out_features == 3
    stages = [(4, 4, 3), (4, 8, 3)]  # two blocks of two convolutions each; the second stage widens and has a shortcut
    weights = 4 * 1 * 7 * 7 + 2 * 4
    for read, made, side in stages:
        weights += made * read * side**2 + 3 * made * made * side**2 + 4 * 2 * made
        weights += (made * read + 2 * made) if read != made else 0
    assert sum(p.numel() for p in built.model.parameters()) == weights + 8 * 3 + 3


def counts(lines: list[str]) -> list[tuple[int, int]]:
    """Channels before and after, a line each."""
    words = [line.partition(": ")[2].split() for line in lines]
    return [(int(word[0]), int(word[2])) for word in words]


def test_groups_compete_unless_they_are_uniform() -> None:
    shares = {round(after / before, 2) for before, after in counts(pruned(resnet(), ratio=0.4, uniform=False))}
    assert len(shares) > 1


def test_align_include_and_exclude() -> None:
    assert any(after % 4 for _, after in counts(pruned(resnet(), ratio=0.3)))
    assert all(after % 4 == 0 for _, after in counts(pruned(resnet(), ratio=0.3, align=4)))
    names = [line.partition(":")[0] for line in pruned(resnet())]
    assert [line.partition(":")[0] for line in pruned(resnet(), include=[names[0]])] == names[:1]
    assert [line.partition(":")[0] for line in pruned(resnet(), exclude=[names[0]])] == names[1:]


def test_a_model_without_convolutions_is_refused() -> None:
    with pytest.raises(KdcError, match="BertForSequenceClassification has no convolutions of pictures"):
        PASSES["prune_channels"](name="prune_channels").apply(models.texts("bert").model, PrecisionPlan())
