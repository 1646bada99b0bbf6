"""The steps of students: each learns from teachers, from its peers, or from nobody.

Nothing but the key's parts reaches a `build`, but for what changes no result (progress bars, trackers).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdc.distill.settings import DistillConfig, TrainConfig
from kdc.distill.terms.base import Term
from kdc.models.spec import StudentConfig
from kdc.stages.base import MODEL, Data, Step, World, packages
from kdc.stages.training import (
    Models,
    Teaching,
    checkpoint_identity,
    model_step,
    training_parts,
)
from kdc.store import Published

if TYPE_CHECKING:
    from kdc.distill.signals import Source
    from kdc.models.taps import Outline

PEERS = "peers"


@dataclass(frozen=True)
class Taught:
    """A teacher as its student sees it; `signals` are its answers where they were cached, else it is asked anew."""

    name: str
    model: Published
    signals: Published | None = None


@dataclass(frozen=True)
class Pupil:
    """Who learns: its model, from what it starts, and what it is told.

    `origin` is the model whose layers or tokenizer it takes, or, without a `config`, which it is; `fresh` draws its
    weights anew, whatever it starts from.
    `peers` learn along with it, and take the place of teachers.
    """

    role: str
    config: StudentConfig | None
    origin: Published
    terms: Mapping[str, Term]
    train: TrainConfig
    seed: int
    teachers: Sequence[Taught] = ()
    wanted: Mapping[str, Sequence[int]] | None = None
    outlines: tuple[Outline, Outline] | None = None
    fresh: bool = False
    peers: Mapping[str, StudentConfig] = field(default_factory=dict)


def student_step(pupil: Pupil, distill: DistillConfig, data: Data, world: World) -> Step:
    """A student, trained on its terms: a folder with `model/`."""
    config = pupil.config
    assert config is not None
    settings = pupil.train.at_rate_for(from_scratch=config.from_scratch or pupil.fresh)
    identity, _ = checkpoint_identity(config, "student", data.task)
    parts = {
        "model": _described(config),
        "checkpoint": identity,
        "origin": pupil.origin.key,
        "fresh": pupil.fresh,
        "peers": [
            [key, _described(peer), checkpoint_identity(peer, key, data.task)[0]] for key, peer in pupil.peers.items()
        ],
        **lesson_parts(pupil, settings, distill, data),
    }

    def model(scratch: Path) -> tuple[Models, dict[str, Any]]:
        from transformers import set_seed

        from kdc.models.build import build_model, load_model, redrawn

        set_seed(pupil.seed)
        origin = load_model(pupil.origin.path / MODEL, data.task)
        built = build_model(config, "student", data.needs, teacher=origin)
        if pupil.fresh:
            built = redrawn(built)
        for line in built.notes:
            world.screen.say(line)
        peers = {name: build_model(peer, "student", data.needs, teacher=origin) for name, peer in pupil.peers.items()}
        source = teachers_answers(pupil, distill, data)
        lesson = Teaching(data, pupil.terms, source, pupil.outlines, tuple(distill.audit), peers)
        record = lesson.teach(built, settings, pupil.seed, scratch, world, pupil.role)
        return {MODEL: built, **{f"{PEERS}/{name}": peer for name, peer in peers.items()}}, record

    return model_step("student", config, parts, model, trains=True)


def lesson_parts(pupil: Pupil, settings: TrainConfig, distill: DistillConfig, data: Data) -> dict[str, Any]:
    """What of a key says from whom and how a pupil learns."""
    return {
        "teachers": {
            taught.name: {"model": taught.model.key, "signals": taught.signals.key if taught.signals else None}
            for taught in pupil.teachers
        },
        "wanted": {signal: list(layers) for signal, layers in (pupil.wanted or {}).items()},
        "combine": _combination(pupil, distill),
        "terms": [[key, term.model_dump(mode="json")] for key, term in pupil.terms.items()],
        "audit": distill.audit,
        "data": data.shape,
        "training": training_parts(settings, data, pupil.seed),
        "packages": packages("torch", "transformers", "tokenizers"),
    }


def _described(config: StudentConfig) -> dict[str, Any]:
    """All of it but its name, and the path, for which the checkpoint's identity stands."""
    return config.model_dump(mode="json", exclude={"name", "path"})


def peer_step(cohort: Published, name: str, config: StudentConfig, origin: Published) -> Step:
    """One of those that learned with a student, as a model of its own."""

    def build(folder: Path, scratch: Path) -> None:
        shutil.copytree(cohort.path / PEERS / name, folder / MODEL)

    return Step("peer", {"cohort": cohort.key, "name": name, "origin": origin.key}, build, model=config)


def teachers_answers(pupil: Pupil, distill: DistillConfig, data: Data) -> Source | None:
    """Whatever the pupil's teachers say, as one."""
    if not pupil.teachers:
        return None
    from kdc.distill.ensemble import Ensemble
    from kdc.distill.signals import CachedSignals, OnlineSignals
    from kdc.models.build import load_model

    assert pupil.wanted is not None
    rows = data.lesson
    sources: dict[str, Source] = {}
    for taught in pupil.teachers:
        if taught.signals is not None:
            sources[taught.name] = CachedSignals(taught.signals.path, rows)
        else:
            teacher = load_model(taught.model.path / MODEL, data.task)
            sources[taught.name] = OnlineSignals(teacher, teacher.encoder.encode(rows), pupil.wanted)
    if len(sources) == 1:
        return next(iter(sources.values()))
    return Ensemble(sources, combine=distill.combine, weights=distill.teacher_weights)


def _combination(pupil: Pupil, distill: DistillConfig) -> dict[str, Any] | None:
    if len(pupil.teachers) < 2:
        return None
    return {"how": distill.combine, "weights": distill.teacher_weights}
