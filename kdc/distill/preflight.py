"""Before anything is trained: can these models be compared as the loss wants, and what will the signals take?

Models are built without weights from their configurations, asked for each signal that a term reads, and every problem
is told at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kdc.data.lengths import mean_tokens
from kdc.distill.terms.base import Term, all_problems
from kdc.errors import KdcError
from kdc.models.spec import ModelConfig, StudentConfig, TeacherConfig

if TYPE_CHECKING:
    from kdc.distill.settings import DistillConfig
    from kdc.models.settings import Needs
    from kdc.models.taps import Outline


@dataclass(frozen=True)
class Pairing:
    """A student and whoever teaches it, seen before they exist."""

    outlines: tuple[Outline, Outline] | None = None
    wanted: Mapping[str, Sequence[int]] = field(default_factory=dict)
    row_bytes: float = 0.0
    """About what the signals of one row take on disk."""
    reading: str = ""

    def cached(self, distill: DistillConfig, rows: int) -> bool:
        """Whether the signals of so many rows are kept on disk: they must fit; logits alone always do."""
        fit = set(self.wanted) == {"logits"} or self.row_bytes * rows <= distill.cache_gb * 1e9
        return bool(self.wanted) and (distill.signals == "cached" or (distill.signals == "auto" and fit))

    def note(self, distill: DistillConfig, rows: int) -> str:
        """What is read of whom and how; empty where nothing is."""
        if not self.wanted:
            return ""
        how = "cached" if self.cached(distill, rows) else "asked batch by batch"
        against = f" against distill.cache_gb={distill.cache_gb:g}"
        budgeted = distill.signals == "auto" and set(self.wanted) != {"logits"}
        return f"{self.reading}: {how}, about {_size(self.row_bytes * rows)}{against if budgeted else ''}"


@dataclass(frozen=True)
class Tokenizer:
    """What tells apart how texts are cut, and the most tokens that it makes of one."""

    vocabulary: str
    max_length: int


class Preflight:
    """Looks at the models of one run; a model that takes after another (layers, tokenizer) is described after it."""

    def __init__(self, needs: Needs) -> None:
        self.needs = needs
        self._settings: dict[str, Any] = {}
        self._tokenizers: dict[str, Tokenizer | None] = {}

    def describe(self, name: str, config: ModelConfig, *, after: str | None = None) -> None:
        """Note what `config` comes to, as `name`; layers and tokenizer may be those of `after`."""
        from kdc.models.settings import model_settings

        self._settings[name] = model_settings(config, self.needs, self._settings[after] if after else None)
        self._tokenizers[name] = _tokenizer(config, self.needs, self._tokenizers[after] if after else None)

    def pair(self, student: str, teachers: Sequence[str], terms: Mapping[str, Term]) -> Pairing:
        """What these terms make of a student and its teachers; KdcError with every problem."""
        from kdc.distill.signals import signal_bytes, wanted_signals

        asks = {signal for term in terms.values() for signal in term.asks_of_teacher}
        ours = self._outline(student, {signal for term in terms.values() for signal in term.reads})
        theirs = [self._outline(teacher, asks) for teacher in teachers]
        sides: list[Outline | None] = [*theirs] or [None]
        problems = [line for one in sides for line in all_problems(terms, ours, one)]
        problems += list(logits_alone(terms, "several teachers")) if len(teachers) > 1 else []
        refuse(problems)
        if not theirs or not asks:
            return Pairing()
        wanted = wanted_signals(terms.values(), ours, theirs[0])
        row_bytes = signal_bytes(theirs[0], wanted, self._tokens())
        reading = f"{student} reads {_listed(wanted)} of {' and '.join(teachers)}"
        return Pairing((ours, theirs[0]), wanted, row_bytes, reading)

    def skeleton(self, name: str) -> Any:
        """The model without weights."""
        import torch

        from kdc.models.settings import draw_model

        with torch.device("meta"):
            return draw_model(self._settings[name], self.needs.task, name).eval()

    def _outline(self, name: str, signals: set[str]) -> Outline:
        from kdc.models.checkpoint import positions
        from kdc.models.taps import outline
        from kdc.quiet import quiet

        model = self.skeleton(name)
        tokenizer = self._tokenizers[name]
        with quiet():
            seen = outline(model, signals, name=f"the {name}", vocabulary=tokenizer.vocabulary if tokenizer else None)
        if tokenizer is None:
            return seen
        limit = positions(self._settings[name], tokenizer.max_length)
        return replace(seen, max_length=min(tokenizer.max_length, limit))

    def _tokens(self) -> float:
        texts = self.needs.task.modality == "text"
        return mean_tokens(self.needs.train, self.needs.max_length) if texts else 0.0


def refuse(problems: Sequence[str]) -> None:
    """Raise all problems as one error, if there are any."""
    lines = list(dict.fromkeys(problems))
    if len(lines) == 1:
        raise KdcError(lines[0])
    if lines:
        raise KdcError("\n  ".join([f"{len(lines)} problems with the loss:", *lines]))


def logits_alone(terms: Mapping[str, Term], who: str) -> Iterator[str]:
    """Problems of terms that read more of a teacher than its logits."""
    for key, term in terms.items():
        if more := sorted(term.asks_of_teacher - {"logits"}):
            yield f"loss.terms.{key}: {term.name} reads {more[0]}, but {who} share their logits only"


def _tokenizer(config: ModelConfig, needs: Needs, inherited: Tokenizer | None) -> Tokenizer | None:
    """That of the model that `config` describes; None where rows are no texts."""
    if needs.task.modality != "text":
        return None
    if config.path is not None:
        from kdc.hub import model_folder
        from kdc.models.checkpoint import TEXT_INPUTS, checkpoint_encoder
        from kdc.tasks.text import TextEncoder

        where = f"{'teacher' if isinstance(config, TeacherConfig) else 'student'}.path"
        folder, _ = model_folder(config.path, config.revision, where)
        encoder = checkpoint_encoder(
            folder, needs.task, where=f"{where}: ", inputs=TEXT_INPUTS, max_length=needs.max_length
        )
        assert isinstance(encoder, TextEncoder)
        return Tokenizer(encoder.vocabulary, encoder.max_length)
    own = getattr(config, "vocab_size", None)
    if isinstance(config, StudentConfig) and own is None:
        return inherited
    return Tokenizer(f"wordpiece of {own} pieces", needs.max_length)


def _listed(wanted: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(
        signal.replace("_", " ") + (f" of {len(layers)} layers" if layers else "") for signal, layers in wanted.items()
    )


def _size(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
