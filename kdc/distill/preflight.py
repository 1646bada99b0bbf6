"""Before anything is trained: can these models be compared as the loss wants, and what will the signals take?

Models are built without weights from their configurations, asked for each signal that a term reads, and every problem
is told at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdc.data.lengths import mean_tokens
from kdc.distill.terms.base import Term, all_problems
from kdc.errors import KdcError
from kdc.models.spec import ModelConfig, StudentConfig, TeacherConfig
from kdc.tasks.base import Task

if TYPE_CHECKING:
    from kdc.distill.settings import DistillConfig
    from kdc.models.settings import Needs
    from kdc.models.taps import Outline


@dataclass(frozen=True)
class Pairing:
    """A student and whoever teaches it, seen before they exist."""

    outlines: tuple[Outline, Outline] | None
    wanted: Mapping[str, Sequence[int]]
    cached: bool
    note: str


class Preflight:
    """Looks at the models of one run; a model that takes after another (layers, tokenizer) is described after it."""

    def __init__(self, needs: Needs, distill: DistillConfig) -> None:
        self.needs, self.distill = needs, distill
        self._settings: dict[str, Any] = {}
        self._vocabularies: dict[str, str | None] = {}

    def describe(self, name: str, config: ModelConfig, *, after: str | None = None) -> None:
        """Note what `config` comes to, as `name`; layers and tokenizer may be those of `after`."""
        from kdc.models.settings import model_settings

        self._settings[name] = model_settings(config, self.needs, self._settings[after] if after else None)
        self._vocabularies[name] = _vocabulary(config, self.needs.task, self._vocabularies[after] if after else None)

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
            return Pairing(None, {}, cached=False, note="")
        wanted = wanted_signals(terms.values(), ours, theirs[0])
        size = signal_bytes(theirs[0], wanted, len(self.needs.train), self._tokens())
        budget = self.distill.cache_gb * 1e9
        only_logits = set(wanted) == {"logits"}
        cached = self.distill.signals == "cached" or (
            self.distill.signals == "auto" and (only_logits or size <= budget)
        )
        how = "cached" if cached else "asked batch by batch"
        note = f"{student} reads {_listed(wanted)} of {' and '.join(teachers)}: {how}, about {_size(size)}"
        if self.distill.signals == "auto" and not only_logits:
            note += f" against distill.cache_gb={self.distill.cache_gb:g}"
        return Pairing((ours, theirs[0]), wanted, cached, note)

    def _outline(self, name: str, signals: set[str]) -> Outline:
        import torch

        from kdc.models.settings import draw_model
        from kdc.models.taps import outline
        from kdc.quiet import quiet

        with torch.device("meta"):
            model = draw_model(self._settings[name], self.needs.task, name)
        with quiet():
            return outline(model, signals, name=f"the {name}", vocabulary=self._vocabularies[name])

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


def _vocabulary(config: ModelConfig, task: Task, inherited: str | None) -> str | None:
    """What tells apart how texts are cut into tokens; None where there are none."""
    if task.modality != "text":
        return None
    from kdc.hub import model_folder

    if config.path is not None:
        role = "teacher" if isinstance(config, TeacherConfig) else "student"
        folder, _ = model_folder(config.path, config.revision, f"{role}.path")
        files = [folder / name for name in ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model")]
        digest = hashlib.sha256()
        for file in files:
            # tokenizer.json alone decides where it is there: checkpoints of one family differ in what else they bring
            if file.exists():
                digest.update(file.read_bytes())
                break
        return digest.hexdigest()
    own = getattr(config, "vocab_size", None)
    if isinstance(config, StudentConfig) and own is None:
        return inherited
    return f"wordpiece of {own} pieces"


def _listed(wanted: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(
        signal.replace("_", " ") + (f" of {len(layers)} layers" if layers else "") for signal, layers in wanted.items()
    )


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
