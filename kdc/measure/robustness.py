"""Perturbed copies of the test rows: typing errors, other capitals, noise. The same ones for every variant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from kdc.data.examples import Examples

TYPO_RATE = 0.15
"""The share of words of four or more letters that get one."""
NOISE = 0.1
"""Standard deviation, of a pixel's range."""

Change = Callable[[Any, np.random.Generator], Any]


def perturb(examples: Examples, name: str, *, seed: int) -> Examples:
    """Every input that the perturbation is for, changed; answers stay. Depends on the row's content and the seed.

    So the same row is perturbed alike wherever it stands.
    """
    columns, change = PERTURBATIONS[name]
    changed: dict[str, list[Any]] = {column: [] for column in columns if column in examples}
    for row, identity in enumerate(examples.ids):
        generator = np.random.default_rng([seed, int(identity, 16)])
        for column, values in changed.items():
            values.append(change(examples[column][row], generator))
    now = {name: _like(examples[name], values) for name, values in changed.items()}
    return replace(examples, columns={**examples.columns, **now})


def typos(text: str, generator: np.random.Generator) -> str:
    """One word in seven has inner letters swapped, dropped or doubled (Pruthi et al. 2019).

    At least one word does, where one is long enough.
    """
    words = text.split(" ")
    able = [i for i, word in enumerate(words) if len(word) >= 4]
    if not able:
        return text
    chosen = [i for i in able if generator.random() < TYPO_RATE] or [int(generator.choice(able))]
    for i in chosen:
        words[i] = _mistyped(words[i], generator)
    return " ".join(words)


def _mistyped(word: str, generator: np.random.Generator) -> str:
    at, kind = int(generator.integers(1, len(word) - 2)), int(generator.integers(3))
    before, here, after, rest = word[:at], word[at], word[at + 1], word[at + 2 :]
    swapped = after + here if after != here else here  # two that are alike cannot be swapped: one is dropped
    return before + (swapped, after, here + here + after)[kind] + rest


def case(text: str, generator: np.random.Generator) -> str:
    """All small letters, all capitals, or every word with a capital."""
    return (text.lower(), text.upper(), text.title())[int(generator.integers(3))]


def noise(pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Gaussian noise on uint8 `[height, width, channels]` (Hendrycks and Dietterich 2019), clipped."""
    noisy = pixels + generator.normal(0, NOISE * 255, pixels.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def _like(column: Any, values: list[Any]) -> Any:
    return np.stack(values) if isinstance(column, np.ndarray) else values


PERTURBATIONS: Mapping[str, tuple[tuple[str, ...], Change]] = {
    "typos": (("text", "text_pair"), typos),
    "case": (("text", "text_pair"), case),
    "noise": (("image",), noise),
}
"""By name: the columns that it is for, and what it does to one value."""
