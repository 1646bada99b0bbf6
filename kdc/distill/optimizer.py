"""AdamW that works on a batch's rows of the word embeddings alone, and gets where the whole would have got.

A batch of texts has some hundred of a vocabulary's many thousand rows. AdamW still moves all of them at every step,
because their momentum decays slowly, and the gradient is mostly zeros. What happens to a row without gradient is known
beforehand, so here it happens when the row is next looked at: m and v have decayed by powers of their betas, and the
parameter has moved by m / sqrt(v) times a factor that is the same for all rows that were last seen at the same step
(see `_catch_up`). What it saves is not measured by itself yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

LEAST_ROWS = 2048
"""Smaller vocabularies are not worth it."""


class RowAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` (fused) for all parameters but `embedding.weight`, which gets a sparse gradient.

    `groups` are parameter groups as AdamW takes them, the embedding's weight in one of them. The embedding brings the
    rows that it is asked for up to date before it looks them up; `finish` brings all of them, before they are saved or
    read in another way.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], embedding: nn.Embedding, *, steps: int, **settings: Any
    ) -> None:
        super().__init__(groups, fused=True, **settings)
        self.embedding, self.weight = embedding, embedding.weight
        embedding.sparse = True
        self.steps = steps
        self.grad_scale: Tensor | None = None
        self._hook = embedding.register_forward_pre_hook(lambda module, inputs: self._catch_up(inputs[0].unique()))

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        gradient, self.weight.grad = self.weight.grad, None  # AdamW passes over parameters without one
        super().step(closure)
        if gradient is not None:
            self._step_rows(gradient.coalesce())
        self.weight.grad, self.grad_scale = gradient, None

    def clip(self, max_norm: float) -> Tensor:
        """`torch.nn.utils.clip_grad_norm_` over all gradients, the sparse one among them; returns the norm before.

        The next step divides while it reads them, as it would for a gradient scaler: no pass over memory for it.
        """
        parameters = [p for group in self.param_groups for p in group["params"] if p is not self.weight]
        dense = [parameter.grad for parameter in parameters if parameter.grad is not None]
        sparse = self.weight.grad.coalesce() if self.weight.grad is not None else None
        parts = [part.flatten() for part in (*dense, *([sparse.values()] if sparse is not None else []))]
        total = torch.stack([part.dot(part) for part in parts]).sum().sqrt()  # a norm is some times slower than a dot
        self.grad_scale = ((total + 1e-6) / max_norm).clamp(min=1.0)
        if sparse is not None:
            sparse.values().div_(self.grad_scale)
            self.weight.grad = sparse
        return total

    @torch.no_grad()
    def finish(self) -> None:
        """Bring every row up to date: the weight is what AdamW would have made of it."""
        if self.weight in self.state:
            self._catch_up(torch.arange(len(self.weight), device=self.weight.device))

    def release(self) -> None:
        """Let go of the embedding as it is."""
        self._hook.remove()
        self.embedding.sparse = False

    def _group(self) -> dict[str, Any]:
        return next(group for group in self.param_groups if any(p is self.weight for p in group["params"]))

    def _step_rows(self, gradient: Tensor) -> None:
        group, state = self._group(), self.state[self.weight]
        (beta1, beta2), rate = group["betas"], float(group["lr"])
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(self.weight), torch.zeros_like(self.weight)
            state["seen"] = torch.zeros(len(self.weight), device=self.weight.device)
            state["moved"] = torch.zeros(self.steps + 1, device=self.weight.device)
            state["kept"] = torch.ones(self.steps + 1, device=self.weight.device)
        state["step"] += 1
        now = int(state["step"])
        rows, values = gradient.indices()[0], gradient.values()
        size = rate * math.sqrt(1 - beta2**now) / (1 - beta1**now)
        decay = 1 - rate * group["weight_decay"]
        # what this step does to rows that have no gradient in it, by the step at which they were last seen
        ages = torch.arange(now, 0, -1, device=self.weight.device)
        state["moved"][:now] += size * (beta1 / math.sqrt(beta2)) ** ages
        state["kept"][:now] *= decay
        m = state["exp_avg"][rows].lerp_(values, 1 - beta1)
        v = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(values, values, value=1 - beta2)
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = m, v
        eps = group["eps"] * math.sqrt(1 - beta2**now)
        self.weight[rows] = self.weight[rows].mul_(decay).addcdiv_(m, v.sqrt() + eps, value=-size)
        state["seen"][rows] = float(now)

    @torch.no_grad()
    def _catch_up(self, rows: Tensor) -> None:
        """What the steps since a row was last seen at step s have done to it, gradients being zero.

        At step i: m_i = β1^(i-s) m_s and v_i = β2^(i-s) v_s (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1), so
        AdamW's move is size_i (β1 / √β2)^(i-s) m_s / √v_s with size_i = rate_i √(1 - β2^i) / (1 - β1^i): `moved[s]`
        sums the factors up, `kept[s]` multiplies the decays. Epsilon is taken as it was at step s, and moves are not
        decayed in turn: both are below rounding for usual settings.
        """
        state = self.state.get(self.weight)
        if not state:
            return
        now = int(state["step"])
        rows = rows[state["seen"][rows] < now]
        if not len(rows):
            return
        group = self._group()
        beta1, beta2 = group["betas"]
        seen = state["seen"][rows].long()
        m, v = state["exp_avg"][rows], state["exp_avg_sq"][rows]
        eps = group["eps"] * (1 - beta2 ** seen.clamp(min=1)).sqrt().unsqueeze(1)
        move = state["moved"][seen].unsqueeze(1) * m / (v.sqrt() + eps)
        self.weight[rows] = self.weight[rows] * state["kept"][seen].unsqueeze(1) - move
        age = (now - seen).unsqueeze(1)
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = m * beta1**age, v * beta2**age
        state["seen"][rows] = float(now)


def word_embedding(model: Any) -> nn.Embedding | None:
    """The model's word embeddings if `RowAdamW` can train them: large, on the CPU, and nobody else's weight too."""
    if getattr(model, "main_input_name", None) != "input_ids":
        return None
    embedding = model.get_input_embeddings()
    if not isinstance(embedding, nn.Embedding) or len(embedding.weight) < LEAST_ROWS or embedding.weight.is_cuda:
        return None
    owners = [module for module in model.modules() if getattr(module, "weight", None) is embedding.weight]
    return embedding if len(owners) == 1 and embedding.weight.requires_grad else None
