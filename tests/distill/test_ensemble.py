"""Several teachers that speak as one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kdc.distill.ensemble import Ensemble, combined

LOGITS = np.random.default_rng(0).standard_normal((3, 4, 5)) * 3
"""Three teachers, four rows, five classes."""
WEIGHTS = np.array([1.0, 2.0, 0.5])


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def confidence(logits: np.ndarray) -> np.ndarray:
    classes = logits.shape[-1]
    return (softmax(logits).max(axis=-1) - 1 / classes) / (1 - 1 / classes)


def agreement(logits: np.ndarray) -> np.ndarray:
    """1 - half the L1 distance between each teacher and the mean of the two others."""
    shares = softmax(logits)
    others = [np.mean([shares[j] for j in range(3) if j != i], axis=0) for i in range(3)]
    return np.stack([1 - np.abs(shares[i] - others[i]).sum(axis=-1) / 2 for i in range(3)])


@pytest.mark.parametrize(
    ("how", "trust"), [("mean", np.ones((3, 4))), ("confidence", confidence(LOGITS)), ("agreement", agreement(LOGITS))]
)
def test_logits_are_averaged_by_weight_and_trust(how: str, trust: np.ndarray) -> None:
    shares = WEIGHTS[:, None] * trust
    wanted = np.einsum("kr,krc->rc", shares / shares.sum(axis=0), LOGITS)
    np.testing.assert_allclose(combined(torch.tensor(LOGITS), torch.tensor(WEIGHTS), how).numpy(), wanted, atol=1e-12)


def test_the_mean_of_logits_is_the_geometric_mean_of_distributions_at_every_temperature() -> None:
    mean = combined(torch.tensor(LOGITS), torch.ones(3), "mean").numpy()
    for temperature in (1.0, 4.0):
        product = np.prod(softmax(LOGITS / temperature), axis=0) ** (1 / 3)
        wanted = product / product.sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(softmax(mean / temperature), wanted, atol=1e-12)


def test_a_teacher_that_knows_nothing_has_no_say_by_confidence() -> None:
    logits = np.stack([np.zeros((4, 5)), LOGITS[0]])
    np.testing.assert_allclose(combined(torch.tensor(logits), torch.ones(2), "confidence").numpy(), LOGITS[0])


def test_where_nobody_has_a_say_all_have_the_same() -> None:
    nothing = combined(torch.zeros(2, 4, 5, dtype=torch.float64), torch.ones(2), "confidence")
    assert torch.equal(nothing, torch.zeros(4, 5, dtype=torch.float64))
    np.testing.assert_allclose(
        combined(torch.tensor(LOGITS), torch.zeros(3), "mean").numpy(), LOGITS.mean(axis=0), atol=1e-12
    )


def test_an_odd_one_out_counts_less_by_agreement() -> None:
    odd = np.array([[[4.0, 0.0]], [[4.0, 0.0]], [[0.0, 4.0]]])
    by_agreement, mean = (combined(torch.tensor(odd), torch.ones(3), how) for how in ("agreement", "mean"))
    assert by_agreement[0, 0] - by_agreement[0, 1] > mean[0, 0] - mean[0, 1]


def test_a_source_of_sources_asks_all_of_them_for_the_same_rows() -> None:
    asked: list[Any] = []

    def source(teacher: int) -> Any:
        def answer(rows: Any) -> dict[str, torch.Tensor]:
            asked.append((teacher, list(rows)))
            return {"logits": torch.tensor(LOGITS[teacher][list(rows)])}

        return answer

    ensemble = Ensemble({"teacher": source(0), "other": source(1)}, combine="mean", weights={"other": 3.0})
    said = ensemble([2, 0])["logits"].numpy()
    np.testing.assert_allclose(said, (LOGITS[0] + 3 * LOGITS[1])[[2, 0]] / 4)
    assert asked == [(0, [2, 0]), (1, [2, 0])]
