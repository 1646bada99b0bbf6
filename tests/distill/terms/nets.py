"""What the tests of terms on more than logits share: small real models, and a few steps of training with one term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdc.distill.distiller import Distiller
from kdc.distill.signals import wanted_signals
from kdc.distill.terms.base import Batch, Term, all_problems
from kdc.models.nets import CNN, MLP, CNNConfig, MLPConfig
from kdc.models.taps import Outline, Taps, outline
from tests import tiny

ROWS, CLASSES = 6, 3


def cnn(channels: Sequence[int] = (4, 6), *, side: int = 8, hidden: int = 10, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = CNNConfig(channels=tuple(channels), hidden_size=hidden, image_size=side, num_labels=CLASSES)
    return tiny.lively(CNN(config).eval())


def mlp(hidden: Sequence[int] = (12, 10), *, side: int = 8, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return tiny.lively(MLP(MLPConfig(hidden_sizes=tuple(hidden), image_size=side, num_labels=CLASSES)).eval())


def bert(*, seed: int = 0, **settings: Any) -> Any:
    """Without dropout, so that a value can be computed again."""
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return tiny.bert(40, labels=("a", "b", "c"), seed=seed, **still | settings)


def pixels(*, side: int = 8, rows: int = ROWS) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(rows, 1, side, side, generator=torch.Generator().manual_seed(3))}


def tokens(*, rows: int = ROWS, length: int = 7) -> dict[str, Tensor]:
    """Texts of 7 tokens, every other one padded from the fifth on."""
    mask = torch.ones(rows, length, dtype=torch.long)
    mask[::2, 4:] = 0
    ids = torch.randint(3, 40, (rows, length), generator=torch.Generator().manual_seed(3))
    return {"input_ids": ids * mask, "attention_mask": mask}


def outlines(term: Term, student: Any, teacher: Any) -> tuple[Outline, Outline]:
    """Of what the term reads, as a run's preflight makes them."""
    ours, theirs = (
        outline(model, signals, name=name, vocabulary="words" if model.main_input_name == "input_ids" else None)
        for model, signals, name in (
            (student, term.reads, "the student"), (teacher, term.asks_of_teacher, "the teacher"),
        )
    )  # fmt: skip
    return ours, theirs


def problems(term: Term, student: Any, teacher: Any) -> list[str]:
    return all_problems({term.name: term}, *outlines(term, student, teacher))


def said(model: Any, signals: Mapping[str, Any] | frozenset[str], inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """The model's signals; of a mapping's layered ones only the layers it names, as a teacher's come to a student."""
    taps = Taps(model, signals)
    with torch.no_grad():
        brought = taps(inputs)
    taps.close()
    if isinstance(signals, Mapping):
        for name, layers in signals.items():
            if isinstance(brought[name], tuple):
                brought[name] = tuple(part if i in layers else None for i, part in enumerate(brought[name]))
    return brought


def distiller(term: Term, student: Any, teacher: Any) -> Distiller:
    torch.manual_seed(1)
    return Distiller(student, {term.name: term}, outlines(term, student, teacher))


def losses_of_training(
    term: Term, student: Any, teacher: Any, inputs: dict[str, Tensor], labels: Tensor | None = None, *, steps: int = 20
) -> list[float]:
    """The term's value at every step of training a student with it alone; the teacher gives only what is asked."""
    trained = distiller(term, student, teacher)
    ours, theirs = outlines(term, student, teacher)
    signals = said(teacher, wanted_signals([term], ours, theirs), inputs)
    optimizer = torch.optim.Adam(trained.parameters(), lr=1e-2)
    values = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = trained(inputs, labels, signals)["loss"]
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    trained.release()
    return values


def check_layers(term: Term, student: Any, teacher: Any, inputs: dict[str, Tensor], wanted: Sequence[int]) -> None:
    """`wanted` hidden states of the teacher are all that the term reads, and it reads each of them."""
    ours, theirs = outlines(term, student, teacher)
    assert term.layers(ours, theirs) == {"hidden_states": list(wanted)}
    head = term.head(ours, theirs)
    states = said(student, term.reads, inputs), said(teacher, term.reads_of_teacher, inputs)

    def value(seen: Sequence[int]) -> Tensor:
        kept = tuple(part if i in seen else None for i, part in enumerate(states[1]["hidden_states"]))
        return term.loss(Batch(states[0], {**states[1], "hidden_states": kept}), head)

    torch.testing.assert_close(value(wanted), value(range(len(theirs.shapes["hidden_states"]))))
    for layer in wanted:
        try:
            value([other for other in wanted if other != layer])
        except (AttributeError, TypeError):
            continue
        raise AssertionError(f"{term.name} does not read layer {layer}, which it asks for")
