"""Dropout by random bits: the share that is dropped, the scale, the gradient, and the generator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kdc.distill.dropout import ATTENTION, BitDropout, attend, bit_dropout
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


def states(seed: int = 0) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(3, 2, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]


MASK = torch.tensor([[0.0] * 5, [0.0] * 3 + [-1e9] * 2, [0.0] * 4 + [-1e9]], dtype=torch.float64)[:, None, None, :]


@pytest.mark.parametrize("mask", [MASK, None])
def test_attention_is_the_formula(mask: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the mask of what is dropped known, against NumPy's values and autograd's gradient of the formula."""
    kept = (torch.arange(3 * 2 * 5 * 5).view(3, 2, 5, 5) % 4 != 0).double() / 0.75
    monkeypatch.setattr("kdc.distill.dropout.bit_dropped", lambda values, p: values * kept)
    query, key, value = states()
    found, _ = attend(Bidirectional(), query, key, value, mask, dropout=0.25)
    scores = np.einsum("bhid,bhjd->bhij", query.detach(), key.detach()) / 2.0
    raised = np.exp(scores + (0 if mask is None else mask.numpy()))
    weights = raised / raised.sum(-1, keepdims=True) * kept.numpy()
    np.testing.assert_allclose(found.detach(), np.einsum("bhij,bhjd->bihd", weights, value.detach()), rtol=1e-12)
    assert torch.autograd.gradcheck(
        lambda *inputs: attend(Bidirectional(), *inputs, mask, dropout=0.25)[0], (query, key, value)
    )


class Bidirectional(nn.Module):
    is_causal = False


def test_attention_without_dropout_is_torchs_own() -> None:
    query, key, value = states()
    found, _ = attend(Bidirectional(), query, key, value, MASK)
    sdpa = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=MASK)
    assert torch.equal(found, sdpa.transpose(1, 2))


def test_attention_without_a_mask_looks_ahead_only_where_it_may() -> None:
    """A causal module without a mask has torch's kernel make it: the first row sees itself alone."""
    query, key, value = states()
    torch.manual_seed(0)
    found, _ = attend(nn.Module(), query, key, value, None, dropout=1e-9)
    torch.testing.assert_close(found[:, 0], value[:, :, 0])


def test_a_models_attention_drops_out_within_the_block_alone() -> None:
    model = tiny.built_bert(tiny.sentences(4), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.4).model.train()
    ids, mask = torch.arange(10).view(2, 5), torch.tensor([[1] * 5, [1] * 3 + [0] * 2])
    drawn = torch.stack([model(ids, mask).logits.detach() for _ in range(400)])
    plain = model.eval()(ids, mask).logits
    with bit_dropout(model):
        assert model.config._attn_implementation == ATTENTION
        torch.testing.assert_close(model(ids, mask).logits, plain)
        model.train()
        draws = torch.stack([model(ids, mask).logits.detach() for _ in range(400)])
        error = ((draws.var(0) + drawn.var(0)) / 400).sqrt()
        assert ((draws.mean(0) - drawn.mean(0)).abs() < 4 * error).all()
        assert (draws.std(0) / drawn.std(0)).sub(1).abs().max() < 0.25
        other = torch.where(mask.bool(), ids, 1 + ids)
        torch.manual_seed(0)
        first = model(ids, mask).logits
        torch.manual_seed(0)
        assert torch.equal(model(other, mask).logits, first)
    assert model.config._attn_implementation == "sdpa"
