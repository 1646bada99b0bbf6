"""Who learns from whom: the stages that make a run's models, from the teacher to the last student.

A teacher, or several that speak as one; assistants between them and the student; a student that becomes the teacher of
its next generation; students that learn from one another; and, to tell what the teacher was worth, the student again
from other seeds and controls that learn from nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdc import stages
from kdc.compress.base import Recovery
from kdc.data.transfer import check_files
from kdc.distill.preflight import Pairing, Preflight, logits_alone, refuse
from kdc.distill.terms.logits import HardLabels
from kdc.errors import KdcError
from kdc.models.spec import StudentConfig, TeacherConfig
from kdc.stages import Data, Pupil, Step, Taught, World
from kdc.store import Published

if TYPE_CHECKING:
    from kdc.config import RunConfig

ANSWERS: Mapping[str, Sequence[int]] = {"logits": []}
"""What recovery reads of a teacher."""
TEACHER, STUDENT = "teacher", "student"
HARD, SCRATCH = "hard labels", "from scratch"

Enter = Callable[[str, Callable[[], Step]], Published]
"""`enter(label, make)`: the label is the stage's name in the ledger; `make()` may fail, and belongs to the stage."""


@dataclass(frozen=True)
class Point:
    """A model at one point of the run: the stages that hold its weights and its precision plan."""

    name: str
    model: Published
    plan: Published | None = None
    precision: str = "fp32"
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Arm:
    """The student, or a control, once for every seed."""

    name: str
    models: tuple[tuple[int, Published], ...]
    """By seed."""


@dataclass(frozen=True)
class Learner:
    """A model that learns: from which others, and whose layers or tokenizer it takes."""

    name: str
    config: StudentConfig
    masters: tuple[str, ...]
    origin: str


def learners(config: RunConfig) -> Iterator[Learner]:
    """All that learn from a teacher, in the order in which they are trained, the student last."""
    distill = config.distill
    if config.student is None:
        return
    if distill.peers:
        yield Learner(STUDENT, config.student, (), origin=TEACHER)
        return
    masters: tuple[str, ...] = (TEACHER, *distill.teachers)
    for name, assistant in distill.assistants.items():
        yield Learner(name, assistant, masters, origin=masters[0])
        masters = (name,)
    origin = masters[0]
    for generation in range(1, distill.generations):
        yield Learner(f"generation{generation}", config.student, masters, origin)
        masters = (f"generation{generation}",)
    yield Learner(STUDENT, config.student, masters, origin)


@dataclass
class Arrangement:
    """Enters the model stages of one run in their order."""

    config: RunConfig
    data: Data
    world: World
    enter: Enter
    points: list[Point] = field(default_factory=list)
    pupils: dict[str, Pupil] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = self.config.dataset
        unlabelled = rows.unlabelled is not None and not rows.keep_labelled
        on = {key: term for key, term in self.config.loss.terms.items() if not term.is_off}
        self.terms = {key: term for key, term in on.items() if not (unlabelled and term.needs_labels)}
        self.silenced = [key for key in on if key not in self.terms]
        self.labelled = self.data
        self.pairings: dict[str, Pairing] = {}

    def models(self) -> list[Point]:
        """Teachers, assistants, earlier generations, and the student last."""
        config = self.config

        def first() -> Step:
            self._check()  # all of it, before the first model is trained
            return stages.teacher_step(config.teacher, self.data, config.train, config.seed, self.world)

        self._add(TEACHER, first)
        for number, (name, other) in enumerate(config.distill.teachers.items(), 1):

            def further(seed: int = config.seed + number, other: TeacherConfig = other) -> Step:
                return stages.teacher_step(other, self.data, config.train, seed, self.world)

            self._add(name, further)
        self._choose_rows()
        for learner in learners(config):
            self.pupils[learner.name] = self._pupil(learner)
            self._add(learner.name, lambda name=learner.name: self._step(self.pupils[name]), learner.masters)  # type: ignore[misc]
        for name, peer in config.distill.peers.items():
            self._add(
                name,
                lambda name=name, peer=peer: stages.peer_step(  # type: ignore[misc]
                    self._model(STUDENT), name, peer, self._model(TEACHER)
                ),
            )
        # the student stands last: passes go on from there
        self.points.sort(key=lambda point: point.name == STUDENT)
        return self.points

    def arms(self) -> list[Arm]:
        """The student and its controls for every seed; nothing where the run asks for neither seeds nor controls."""
        config = self.config
        if config.student is None or (config.seeds == 1 and not config.control):
            return []
        seeds = range(config.seed, config.seed + config.seeds)
        pupil = self.pupils[STUDENT]
        others = [(seed, self._again(pupil, seed, f"student seed {seed}")) for seed in seeds[1:]]
        arms = [Arm(STUDENT, ((config.seed, self._model(STUDENT)), *others))]
        if config.control:
            # as many steps and validations as the student has, which may learn from other rows than the labelled ones
            longer = len(self.data.lesson) / len(self.labelled.lesson)
            train = config.train
            budget = {"epochs": train.epochs * longer, "evaluations": train.evaluations / longer}
            alone = replace(
                pupil, terms={"hard": HardLabels(name="hard")}, teachers=(), wanted=None, outlines=None, peers={},
                train=train.model_copy(update=budget if longer != 1 else {}),
            )  # fmt: skip
            # a student from scratch is its own second control: the same random weights
            controls = {HARD: alone, SCRATCH: replace(alone, fresh=True)}
            if config.student.from_scratch:
                controls = {SCRATCH: alone}
            for name, control in controls.items():
                made = [
                    (seed, self._again(control, seed, f"control {name}, seed {seed}", self.labelled)) for seed in seeds
                ]
                arms.append(Arm(name, tuple(made)))
        return arms

    def recover(self, key: str, recovery: Recovery, cut: Published, plan: Published | None = None) -> Published:
        """What the pass `key` left of the last model, taught by the teachers that the student had.

        With a `plan` it computes as that says meanwhile.
        """
        terms = {name: term for name, term in self.terms.items() if term.reads_answers}
        if left := [name for name in self.terms if name not in terms]:
            self.world.screen.say(f"  recover {key} learns from answers alone, without {', '.join(left)}")
        pupil = Pupil(
            role=f"recovery {key}",
            config=None,
            origin=cut,
            terms=terms,
            train=self.config.train.model_copy(update=recovery.model_dump(exclude_none=True)),
            seed=self.config.seed,
            teachers=self._answering(),
            wanted=ANSWERS,
        )
        return self.enter(
            f"recover {key}", lambda: stages.recovery_step(pupil, plan, self.config.distill, self.data, self.world)
        )

    def _answering(self) -> list[Taught]:
        """The student's teachers, or the one teacher there is, with their logits for all rows."""
        student = self.pupils.get(STUDENT)
        if student is not None and student.wanted == ANSWERS:
            return list(student.teachers)
        masters = [taught.name for taught in student.teachers] if student is not None else [TEACHER]
        top_k = self.config.distill.top_k
        return [
            Taught(
                master,
                self._model(master),
                self.enter(
                    f"answers of {master}",
                    lambda master=master: stages.signals_step(  # type: ignore[misc]
                        self._model(master), ANSWERS, self.data, self.world, top_k=top_k
                    ),
                ),
            )
            for master in masters or [TEACHER]
        ]

    def _choose_rows(self) -> None:
        """Students learn from the transfer set where there is one; terms that read labels need some there."""
        config = self.config
        for key in self.silenced:
            self.world.screen.say(f"  loss.terms.{key} is off: the rows of dataset.unlabelled have no labels")
        if config.student is None or (config.dataset.unlabelled is None and config.dataset.augment is None):
            return

        def transfer() -> Step:
            return stages.transfer_step(
                config.dataset,
                self.data,
                config.data_dir,
                config.seed,
                config.teacher,
                self._model(TEACHER),
                self.world,
            )

        self.data = stages.read_transfer(self.enter("transfer set", transfer), self.data)

    def _check(self) -> None:
        """Every student against its teachers, every pass against the last model; raises KdcError before training."""
        from kdc.models.shapes import is_cut

        config = self.config
        if config.student is not None and not self.terms:
            raise KdcError(
                f"loss.terms: {' and '.join(self.silenced)} need labels, which no row has", "add kl: loss=kd"
            )
        check_files(config.dataset, config.data_dir)
        preflight = Preflight(self.data.needs)
        preflight.describe(TEACHER, config.teacher)
        for name, other in config.distill.teachers.items():
            preflight.describe(name, other)
        for learner in learners(config):
            preflight.describe(learner.name, learner.config, after=learner.origin)
            self.pairings[learner.name] = preflight.pair(learner.name, learner.masters, self.terms)
        for name, peer in config.distill.peers.items():
            preflight.describe(name, peer, after=TEACHER)
            for pair in ((STUDENT, name), (name, STUDENT)):
                preflight.pair(pair[0], pair[1:], self.terms)
        refuse(list(logits_alone(self.terms, "peers")) if config.distill.peers else [])
        last = config.student or config.teacher
        if not config.compress or (last.path and is_cut(Path(last.path).expanduser())):
            return  # the config of a cut model does not tell what it has
        skeleton: Any = preflight.skeleton(STUDENT if config.student is not None else TEACHER)
        for step in config.compress.values():
            step.targets(skeleton)
            step.outline(skeleton)

    def _pupil(self, learner: Learner) -> Pupil:
        pairing = self.pairings[learner.name]
        if note := pairing.note(self.config.distill, len(self.data.lesson)):
            self.world.screen.say(f"  {note}")
        taught = [Taught(master, self._model(master), self._signals(master, pairing)) for master in learner.masters]
        return Pupil(
            role=learner.name,
            config=learner.config,
            origin=self._model(learner.origin),
            terms=self.terms,
            train=self.config.train,
            seed=self.config.seed,
            teachers=taught if pairing.wanted else (),
            wanted=pairing.wanted,
            outlines=pairing.outlines,
            peers=self.config.distill.peers if learner.name == STUDENT else {},
        )

    def _again(self, pupil: Pupil, seed: int, label: str, data: Data | None = None) -> Published:
        return self.enter(label, lambda: self._step(replace(pupil, seed=seed, role=label), data))

    def _step(self, pupil: Pupil, data: Data | None = None) -> Step:
        return stages.student_step(pupil, self.config.distill, data or self.data, self.world)

    def _signals(self, master: str, pairing: Pairing) -> Published | None:
        if not pairing.cached(self.config.distill, len(self.data.lesson)):
            return None
        top_k = self.config.distill.top_k
        return self.enter(
            "signals" if master == TEACHER else f"signals {master}",
            lambda: stages.signals_step(self._model(master), pairing.wanted, self.data, self.world, top_k=top_k),
        )

    def _model(self, name: str) -> Published:
        return next(point.model for point in self.points if point.name == name)

    def _add(self, name: str, make: Callable[[], Step], parents: Sequence[str] = ()) -> None:
        self.points.append(Point(name, self.enter(name, make), parents=tuple(parents)))
