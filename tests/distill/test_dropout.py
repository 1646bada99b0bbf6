"""Dropout by random bits: the share that is dropped, the scale, the gradient, and the generator."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdc.distill.dropout import BitDropout, bit_dropout
from tests import tiny

ONES = torch.ones(400, 251)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_as_many_are_dropped_as_should_and_the_mean_stays(p: float) -> None:
    torch.manual_seed(0)
    found = BitDropout(p)(ONES)
    dropped = float((found == 0).float().mean())
    assert dropped == pytest.approx(p, abs=5 * (p * (1 - p) / ONES.numel()) ** 0.5)
    kept = found[found != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)), rtol=2e-4, atol=0)
    assert float(found.mean()) == pytest.approx(1, abs=0.03)


def test_elements_are_dropped_independently_of_each_other() -> None:
    torch.manual_seed(0)
    dropped = (BitDropout(0.5)(ONES) == 0).double().flatten() - 0.5
    for lag in (1, 2, 3, 4, 251):
        assert abs(float((dropped[lag:] * dropped[:-lag]).mean())) < 4 * 0.25 / ONES.numel() ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_gradient_goes_where_the_values_went(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = torch.randn(7, 5, dtype=dtype, requires_grad=True)
    found = BitDropout(0.3)(values)
    assert found.dtype == dtype
    found.backward(torch.ones_like(found))
    assert values.grad is not None
    assert values.grad.dtype == dtype
    torch.testing.assert_close(values.grad * values.detach(), found.detach())


def test_edges() -> None:
    assert torch.equal(BitDropout(0.0)(ONES), ONES)
    assert torch.equal(BitDropout(0.5).eval()(ONES), ONES)
    assert not BitDropout(1.0)(ONES).any()
    assert BitDropout(0.5)(torch.empty(0, 3)).shape == (0, 3)


def test_the_generators_state_is_all_there_is() -> None:
    torch.manual_seed(3)
    first = BitDropout(0.5)(ONES)
    state = torch.get_rng_state()
    second = BitDropout(0.5)(ONES)
    torch.set_rng_state(state)
    assert torch.equal(BitDropout(0.5)(ONES), second)
    assert not torch.equal(first, second)


def test_a_model_has_it_within_the_block_alone() -> None:
    model = tiny.built_bert(tiny.sentences(4), hidden_dropout_prob=0.4).model
    names = list(model.state_dict())
    with bit_dropout(model):
        kinds = {type(module) for module in model.modules() if isinstance(module, nn.Dropout)}
        assert kinds == {BitDropout}
        assert list(model.state_dict()) == names
        model.train()
        ids = torch.ones(2, 5, dtype=torch.long)
        assert not torch.equal(model(ids).logits, model(ids).logits)
    assert {type(module) for module in model.modules() if isinstance(module, nn.Dropout)} == {nn.Dropout}
