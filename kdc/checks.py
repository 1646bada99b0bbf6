"""Cross checks of a typed configuration: what no single section can know. No model is loaded, nothing is downloaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdc.errors import did_you_mean
from kdc.models.spec import PLAIN_NETS, StudentConfig

if TYPE_CHECKING:
    from kdc.config import RunConfig
    from kdc.export.base import Runtime
    from kdc.models.spec import ModelConfig

FITTING = {
    ("teacher", "text"): "bert_tiny, minilm or bert",
    ("teacher", "image"): "mlp or cnn",
    ("student", "text"): "bert_micro, bilstm, textcnn, layers or distilbert",
    ("student", "image"): "mlp_small or cnn_small",
}
"""What to name when the chosen model cannot read the data."""


def cross_check(config: RunConfig) -> list[str]:
    """Every problem, each one line that starts with its dotted key."""
    checks = (
        _task,
        _train,
        _transfer,
        _arrangement,
        _layers,
        _loss,
        _passes,
        _precisions,
        _runtimes,
        _data_dir,
        _report,
    )
    return [problem for check in checks for problem in check(config)]


def modality(model: ModelConfig, wanted: str) -> str | None:
    """`text` or `image`, as far as it can be told without loading: None for a hub id, or for what drawing will tell."""
    if model.architecture is not None:
        kind = str(model.architecture.get("model_type"))
        if wanted == "image" and kind not in PLAIN_NETS:
            from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as IMAGES

            return "image" if kind in IMAGES else "text"
        return PLAIN_NETS.get(kind)
    folder = Path(model.path).expanduser() if model.path else None
    if folder is not None and folder.is_dir():
        if (folder / "preprocessor_config.json").exists():
            return "image"
        if (folder / "tokenizer_config.json").exists() or (folder / "tokenizer.json").exists():
            return "text"
    return None


def _models(config: RunConfig) -> dict[str, ModelConfig]:
    """Every model of the run by its dotted key."""
    distill = config.distill
    found: dict[str, ModelConfig] = {"teacher": config.teacher}
    found |= {f"distill.teachers.{name}": model for name, model in distill.teachers.items()}
    return found | {key: model for key, model, _ in _students(config)}


def _students(config: RunConfig) -> list[tuple[str, StudentConfig, ModelConfig]]:
    """Every model that learns, by its dotted key, with the one whose layers it may take."""
    found: list[tuple[str, StudentConfig, ModelConfig]] = []
    origin: ModelConfig = config.teacher
    for name, assistant in config.distill.assistants.items():
        found.append((f"distill.assistants.{name}", assistant, origin))
        origin = assistant
    found += [(f"distill.peers.{name}", peer, config.teacher) for name, peer in config.distill.peers.items()]
    return found if config.student is None else [*found, ("student", config.student, origin)]


def _task(config: RunConfig) -> Iterator[str]:
    from kdc.tasks.base import TASKS

    name, metric = config.dataset.task, config.dataset.metric
    if name not in TASKS:
        yield f"dataset.task: no task is called '{name}'; {did_you_mean(name, TASKS)}"
        return
    task = TASKS[name]
    if metric is not None and metric not in task.metrics:
        yield f"dataset.metric: {name} has no metric '{metric}'; {did_you_mean(metric, task.metrics)}"
    for role, model in _models(config).items():
        if model.architecture is not None and not isinstance(model.architecture.get("model_type"), str):
            named = f"name a transformers model type or one of {', '.join(PLAIN_NETS)}"
            yield f"{role}.architecture.model_type: is missing; {named}"
        elif (seen := modality(model, task.modality)) not in (None, task.modality):
            yield (
                f"{role}: {model.name} reads {seen}s, but dataset {config.dataset.name} holds {task.modality}s; "
                f"choose {role}={FITTING['student' if isinstance(model, StudentConfig) else 'teacher', task.modality]}"
            )
        elif isinstance(model, StudentConfig) and model.vocab_size is not None and task.modality != "text":
            yield (
                f"{role}.vocab_size: {task.modality}s, which dataset {config.dataset.name} holds, have no tokenizer; "
                "set it to null"
            )


def _train(config: RunConfig) -> Iterator[str]:
    for tracker in config.train.trackers:
        if find_spec(tracker) is None:
            yield f"train.trackers: {tracker} is not installed; pip install {tracker}"
    for role, model in _models(config).items() if config.train.gradient_checkpointing else ():
        if model.architecture is not None and model.architecture.get("model_type") in PLAIN_NETS:
            yield f"train.gradient_checkpointing: the {role} {model.name} cannot do it; set it to false"
    for key, term in config.loss.terms.items() if config.train.accumulate > 1 else ():
        if not term.by_row and term.reads != {"weights"}:
            yield f"loss.terms.{key}: {term.name} compares rows, which parts keep apart; set train.accumulate=1"
    for key, term in config.loss.terms.items() if config.train.compile else ():
        if "input_gradients" in term.reads_of_teacher:
            yield f"loss.terms.{key}: {term.name} differentiates twice, a compiled model once; set train.compile=false"


def _layers(config: RunConfig) -> Iterator[str]:
    for key, student, origin in _students(config):
        if (layers := student.layers) is None:
            continue
        if isinstance(layers, list) and (layers != sorted(set(layers)) or not layers or layers[0] < 0):
            yield f"{key}.layers: must be increasing layer numbers counted from 0 (got {layers})"
            continue
        depth, needed = _depth(origin), layers[-1] + 1 if isinstance(layers, list) else layers
        who = "teacher" if origin is config.teacher else "assistant before it"
        if depth is not None and needed > depth:
            yield f"{key}.layers: {layers} reaches beyond the {who}, which has {depth} layers; take at most {depth}"


def _transfer(config: RunConfig) -> Iterator[str]:
    from kdc.data.transfer import transfer_problems
    from kdc.tasks.base import TASKS

    if config.dataset.task not in TASKS:
        return
    yield from transfer_problems(config.dataset)
    if config.student is None and (config.dataset.unlabelled or config.dataset.augment):
        yield "dataset: a transfer set is for a student to learn from, and student=none learns nothing"
    if config.dataset.augment is not None and config.dataset.augment.replace > 0 and config.teacher.path is None:
        yield "dataset.augment.replace: a teacher from scratch has no masked-LM head to ask for words; set it to 0"


def _arrangement(config: RunConfig) -> Iterator[str]:
    distill = config.distill
    names = [*distill.teachers, *distill.assistants, *distill.peers]
    for name in names:
        taken = name in ("teacher", "student") or names.count(name) > 1 or re.fullmatch(r"generation\d+", name)
        if taken or not re.fullmatch(r"[\w-]+", name):
            yield f"distill: '{name}' cannot name a model; take a word that no other model of the run is called by"
    for name in distill.teacher_weights:
        if name not in ("teacher", *distill.teachers):
            known = did_you_mean(name, ["teacher", *distill.teachers])
            yield f"distill.teacher_weights.{name}: no teacher is called so; {known}"
    if not distill.teachers and (distill.teacher_weights or distill.combine != "mean"):
        yield "distill.combine, distill.teacher_weights: there is one teacher; add more to distill.teachers"
    if distill.top_k is not None and distill.signals == "online":
        yield "distill.top_k: what is asked batch by batch is not cached; set it to null"
    others = [key for key in ("teachers", "assistants") if getattr(distill, key)]
    others += ["generations"] if distill.generations > 1 else []
    if distill.peers and others:
        yield f"distill.peers: students that learn from one another have no teacher; leave out distill.{others[0]}"
    if config.student is None and (names or config.seeds > 1 or config.control):
        yield "distill: student=none learns nothing; choose a student"


def _depth(teacher: ModelConfig) -> int | None:
    """How many layers the teacher has, if its configuration is at hand."""
    settings: dict[str, Any] | None = teacher.architecture
    if isinstance(teacher, StudentConfig) and teacher.layers is not None:
        return teacher.layers if isinstance(teacher.layers, int) else len(teacher.layers)
    if teacher.path is not None and (file := Path(teacher.path).expanduser() / "config.json").is_file():
        settings = json.loads(file.read_text(encoding="utf-8"))
    depths = [(settings or {}).get(key) for key in ("num_hidden_layers", "n_layers", "n_layer")]
    return next((depth for depth in depths if isinstance(depth, int)), None)


def _loss(config: RunConfig) -> Iterator[str]:
    if config.student is not None and not any(not term.is_off for term in config.loss.terms.values()):
        yield "loss.terms: no term has a weight above 0; give one, e.g. loss.terms.kl.weight=1"


def _passes(config: RunConfig) -> Iterator[str]:
    from kdc.compress.order import impossible
    from kdc.tasks.base import TASKS

    reads = TASKS[config.dataset.task].modality if config.dataset.task in TASKS else None
    for key, step in config.compress.items():
        step.remarks()  # raises where the machine to compress for cannot be told
        if None not in (step.modality, reads) and step.modality != reads:
            yield (
                f"compress={key}: is for models of {step.modality}s, but dataset {config.dataset.name} holds {reads}s; "
                "leave it out"
            )
        if missing := [package for package in step.packages if not _importable(package)]:
            yield f"compress={key}: not installed: {', '.join(missing)}; pip install {' '.join(missing)}"
        if step.recovery is None:
            continue
        if config.distill.peers:
            yield f"compress.{key}.recover: students that learn from one another have no teacher; set it to null"
        elif not any(term.teaches_by_answers for term in config.loss.terms.values()):
            yield f"compress.{key}.recover: no term of the loss teaches by the teacher's logits alone; add kl: loss=kd"
    yield from impossible(config.compress)


def _precisions(config: RunConfig) -> Iterator[str]:
    from kdc.export.base import RUNTIMES

    asked = {step.precision: key for key, step in config.compress.items() if step.precision is not None}
    if len(asked) > 1:
        yield f"compress: {' and '.join(asked.values())} ask for different precisions; keep one of them"
    for key, step in config.compress.items():
        if step.precision is None or any(step.precision in runtime.precisions for runtime in config.runtime.values()):
            continue
        have = "; ".join(f"runtime={r.name} has {', '.join(sorted(r.precisions))}" for r in config.runtime.values())
        able = [name for name, runtime in RUNTIMES.items() if step.precision in runtime.precisions]
        chosen = [runtime.name for runtime in config.runtime.values()]
        remedy = f"add runtime='[{','.join([*chosen, able[0]])}]'" if able else "no runtime has it"
        yield f"compress={key}: no chosen runtime computes {step.precision} ({have}); {remedy}"


def _runtimes(config: RunConfig) -> Iterator[str]:
    for key, runtime in config.runtime.items():
        if problem := unusable(runtime):
            yield f"runtime={key}: {problem}"


def unusable(runtime: Runtime) -> str | None:
    """Why this machine cannot run it: a missing package, or what the runtime says; None where it can."""
    if missing := [package for package in runtime.packages if not _importable(package)]:
        return f"not installed: {', '.join(missing)}; pip install {' '.join(missing)}"
    return runtime.unusable()


def _importable(package: str) -> bool:
    """Whether a module of this package is there, whoever brings it: `onnxruntime` also comes as `onnxruntime-gpu`."""
    if find_spec(package.replace("-", "_")) is not None:
        return True
    modules = [module for module, names in packages_distributions().items() if package in names]
    return any(find_spec(module) is not None for module in modules)


def _data_dir(config: RunConfig) -> Iterator[str]:
    if config.data_dir is not None and not config.data_dir.is_dir():
        yield f"data_dir: no folder '{config.data_dir}'; name one that holds the data set's files"


def _report(config: RunConfig) -> Iterator[str]:
    from kdc.measure.robustness import PERTURBATIONS
    from kdc.tasks.base import TASKS, Task

    if config.dataset.task not in TASKS:
        return
    task = TASKS[config.dataset.task]
    fitting = [name for name, (columns, _) in PERTURBATIONS.items() if set(columns) & set(task.columns)]
    for name in config.report.robustness:
        if name not in fitting:
            yield (
                f"report.robustness: {name} is not for {task.modality}s, which dataset {config.dataset.name} holds; "
                f"for them there is {', '.join(fitting)}"
            )
    if config.report.attributions != "none" and task.evidence is Task.evidence:
        yield f"report.attributions: {task.name} has none; take report.attributions=none"
