"""What terms share on tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kdc.distill.terms.rows import (
    Projections,
    by_rows,
    confidence,
    full_precision,
    gathered,
    per_row,
    precise,
    token_mean,
    unit,
)
from tests.distill.terms.two_processes import in_two_processes

MASK = torch.tensor([[True, True, True], [True, False, False]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_precision_becomes_float32(dtype: torch.dtype) -> None:
    assert precise(torch.ones(2, dtype=dtype)).dtype == (torch.float32 if dtype.itemsize == 2 else dtype)


def test_products_are_precise_inside_an_autocast() -> None:
    values = torch.full((1, 1), 1 + 2.0**-12)
    with torch.autocast("cpu", torch.bfloat16):
        rough = values @ values
        with full_precision(values):
            exact = values @ values
    assert (rough.dtype, exact.dtype) == (torch.bfloat16, torch.float32)
    assert float(exact) > 1


def test_units_have_length_one_and_zeros_a_finite_gradient() -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    scaled = unit(vectors)
    assert scaled.flatten().tolist() == pytest.approx([0.6, 0.8, 0, 0])
    scaled.sum().backward()
    assert vectors.grad is not None
    assert bool(torch.isfinite(vectors.grad).all())


def test_the_mean_over_tokens_is_over_real_ones() -> None:
    values = torch.tensor([[1.0, 2.0, 6.0], [5.0, 100.0, -100.0]])
    assert token_mean(values, MASK).tolist() == [3, 5]
    assert token_mean(values, None).tolist() == pytest.approx([3, 5 / 3])
    assert token_mean(values, torch.zeros_like(MASK)).tolist() == [0, 0]


def test_the_mean_over_a_row_is_over_everything_real_in_it() -> None:
    values = torch.arange(12.0).view(2, 3, 2)
    assert per_row(values, MASK).tolist() == [2.5, 6.5]
    assert per_row(values, None).tolist() == [2.5, 8.5]
    assert per_row(values.unsqueeze(-1), MASK).tolist() == [2.5, 6.5]
    assert per_row(values[:, :, 0], MASK).tolist() == [2, 8]  # no tokens, but classes: the mask is not theirs


def test_confidence_is_0_where_all_classes_are_alike_and_1_where_one_is_sure() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0], [99.0, 0.0, 0.0], [np.log(2), 0.0, 0.0]])
    assert confidence(logits).tolist() == pytest.approx([0, 1, (1 / 2 - 1 / 3) / (1 - 1 / 3)], abs=1e-6)
    assert confidence(logits.view(1, 3, 3)).tolist() == pytest.approx([(0 + 1 + 1 / 4) / 3], abs=1e-6)


def test_a_setting_of_every_row_is_shaped_to_its_signal() -> None:
    like = torch.ones(2, 3, 4)
    assert by_rows(2.0, like) == 2
    assert (by_rows(torch.tensor([1.0, 3.0]), like) * like).mean(dim=(1, 2)).tolist() == [1, 3]


def test_projections_are_linears_where_widths_differ_and_nothing_where_they_do_not() -> None:
    projections = Projections([(2, 3), (3, 3), (2, 3)])
    assert [tuple(p.shape) for p in projections.parameters()] == [(3, 2), (3,)] * 2
    values = torch.randn(4, 5, 2)
    first, last = (projections.maps[index] for index in (0, 2))
    for index, linear in ((0, first), (2, last)):
        wanted = values @ linear.weight.T + linear.bias  # type: ignore[operator]
        torch.testing.assert_close(projections(index, values), wanted)
    wide = torch.randn(4, 5, 3)
    assert projections(1, wide) is wide
    assert [tuple(p.shape) for p in Projections([(2, 3)], bias=False).parameters()] == [(3, 2)]


def test_rows_of_one_process_are_all_rows() -> None:
    values = torch.randn(3, 2)
    assert gathered(values) is values


def _process(rank: int) -> tuple[Tensor, Tensor | None]:
    own: Tensor = torch.arange(12.0).view(3, 4)[slice(0, 2) if rank == 0 else slice(2, 3)].clone().requires_grad_()
    everyone = gathered(own)
    ((rank + 1) * everyone.square().sum()).backward()
    return everyone.detach(), own.grad


def test_rows_of_two_processes_come_in_order_and_gradients_go_back() -> None:
    """Two rows here, one there. Process r weighs its loss by r + 1, so a row's gradient is 3 times its own."""
    rows = torch.arange(12.0).view(3, 4)
    for own, (everyone, gradient) in zip((rows[:2], rows[2:]), in_two_processes(_process), strict=True):
        assert everyone.equal(rows)
        torch.testing.assert_close(gradient, 3 * 2 * own)
