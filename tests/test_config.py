"""From a composed configuration to `RunConfig`: every key is typed, every problem is told, with its dotted key."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from omegaconf import OmegaConf
from pydantic import BaseModel, ValidationError

from kdc import checks
from kdc.compose import compose
from kdc.compress.order import odd
from kdc.config import RunConfig, to_run_config
from kdc.errors import KdcError
from kdc.export.base import RUNTIMES


def typed(*overrides: str, notes: list[str] | None = None, extra: Path | None = None) -> RunConfig:
    notify = notes.append if notes is not None else None
    return to_run_config(compose(overrides, extra=extra), overrides=overrides, notify=notify)


def problem(*overrides: str, extra: Path | None = None) -> str:
    with pytest.raises(KdcError) as caught:
        typed(*overrides, extra=extra)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_default_run() -> None:
    config = typed()
    assert config.name == "bert_tiny-layers"
    assert list(config.compress) == ["int8"]
    assert list(config.loss.terms) == ["kl", "hard"]
    assert config.dataset.name == "stdlib_docs"
    assert config.data_dir is None


def test_is_frozen_and_dumps_whole_components() -> None:
    config = typed()
    with pytest.raises(ValidationError):
        config.seed = 1  # type: ignore[misc]
    dumped = config.model_dump(mode="json")
    assert dumped["compress"]["int8"]["per_channel"] is True
    assert dumped["loss"]["terms"]["kl"]["temperature"] == 2.0


def test_environment_and_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KDC_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("KDC_CACHE", "~/kept")
    config = typed()
    assert config.data_dir == tmp_path
    assert config.cache_dir == Path.home() / "kept"
    monkeypatch.delenv("KDC_CACHE")
    assert typed().cache_dir == Path.home() / ".cache" / "kdc"


def test_order_of_passes_and_runtimes_is_the_lists() -> None:
    assert list(typed("runtime=[torch,onnxruntime]").runtime) == ["torch", "onnxruntime"]
    assert list(typed("runtime=[onnxruntime,torch]").runtime) == ["onnxruntime", "torch"]
    again = ("+compress.again.name=int8", "+compress.again.exclude=['*query']")
    assert list(typed("compress=int8", *again).compress) == ["int8", "again"]


def test_null_switches_an_entry_off() -> None:
    assert list(typed("loss.terms.hard=null").loss.terms) == ["kl"]
    assert typed("compress.int8=null").compress == {}


def test_no_student() -> None:
    assert typed("student=none").student is None
    assert problem("student=none", "student.layers=3") == "student.layers: student=none has no settings"


def test_unknown_keys_get_a_suggestion() -> None:
    assert problem("loss.terms.kl.temprature=1") == (
        "loss.terms.kl.temprature: no such key of kl; did you mean 'temperature'?"
    )
    assert problem("train.epoch=1") == "train.epoch: no such key of train; did you mean 'epochs'?"
    assert problem("dataset.colums={}").startswith("dataset.colums: no such key of dataset; did you mean 'columns'?")
    assert (
        problem("compress.int8.name=int9")
        == "compress.int8.name: no compression pass is called 'int9'; did you mean 'int8'?"
    )


def test_all_problems_are_told_together() -> None:
    lines = problem("train.batch_size=0", "loss.terms.kl.temperature=-1", "seed=x", "teacher.foo=1").splitlines()
    assert lines[0] == "4 problems in the configuration:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "teacher.foo",
        "loss.terms.kl.temperature",
        "train.batch_size",
        "seed",
    ]


def test_a_union_speaks_once() -> None:
    message = problem("student=layers", "student.layers=abc")
    assert message.count("student.layers") == 1
    assert "integer" in message
    assert "list" in message


LINEAR = "{schedule: linear, start: 1, end: 0, %s}"


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (LINEAR % "until: 1.5", ".until: input should be less than or equal to 1 (got 1.5)"),
        (LINEAR % "begin: 0.5, until: 0.2", ": begin must lie before until (got 0.5 and 0.2)"),
        (LINEAR % "untill: 0.5", ".untill: no such key of weight; did you mean 'until'?"),
        ("{schedule: confidence, unsure: 1, sure: 0, until: 1}", ".until: no such key of weight; known: schedule, "),
        ("{schedule: linear, start: 1}", ".end: is missing"),
        ("{schedule: linear, start: 1, end: -1}", ": must be at least 0 at all times (got -1)"),
        ("{schedule: linaer, start: 1, end: 0}", ": no schedule is called 'linaer'; did you mean 'linear'?"),
        ("{start: 1, end: 0}", ": must name its 'schedule' (got {'start': 1, 'end': 0})"),
        ("heavy", ": input should be a valid number, unable to parse string as a number (got 'heavy')"),
        ("[1]", ": input should be a valid number (got [1])"),
        (
            "{schedule: phases, phases: [{until: 1, value: %s}]}" % (LINEAR % "untill: 1"),
            ".phases.0.value.untill: no such key of value; did you mean 'until'?",
        ),
    ],
)
def test_of_a_schedule_only_what_is_wrong_is_told(weight: str, message: str) -> None:
    said = problem(f"loss.terms.kl.weight={weight}")
    assert said.startswith(f"loss.terms.kl.weight{message}")
    assert len(said.splitlines()) == 1


def leaves(model: BaseModel, prefix: str = "") -> list[tuple[str, Any]]:
    """Every field of a typed configuration by its dotted key, however deep."""
    found: list[tuple[str, Any]] = []
    for name in type(model).model_fields:
        found += _leaves(getattr(model, name), f"{prefix}{name}")
    return found


def _leaves(value: Any, key: str) -> list[tuple[str, Any]]:
    if isinstance(value, BaseModel):
        return leaves(value, f"{key}.")
    if isinstance(value, dict) and any(isinstance(inner, BaseModel) for inner in value.values()):
        return [leaf for name, inner in value.items() for leaf in _leaves(inner, f"{key}.{name}")]
    return [(key, value)]


COMPOSED = compose(["student=layers", "dataset=sst2"])
# A model's `architecture` is whatever its transformers config takes; of it the model type alone is checked.
KEYS = [key for key, _ in leaves(to_run_config(COMPOSED)) if not key.endswith(".architecture")]


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_typed(key: str) -> None:
    """A mapping of lists is right for no key at all."""
    cfg = copy.deepcopy(COMPOSED)
    OmegaConf.update(cfg, key, {"nonsense": [[]]}, merge=False, force_add=True)
    with pytest.raises(KdcError) as caught:
        to_run_config(cfg)
    assert key in str(caught.value)


def test_entries_that_were_not_chosen(tmp_path: Path) -> None:
    message = problem("compress.bf16.foo=1")
    assert message == "compress.bf16.foo: 'bf16' is not chosen; choose it: compress='[int8,bf16]'"
    assert problem("compress.inte8.per_channel=false").endswith("'inte8' is not chosen; did you mean 'int8'?")
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n# mine\ncompress:\n  int8:\n    per_channel: false\n"
    )
    notes: list[str] = []
    config = typed("experiment=mine", "compress=none", notes=notes, extra=tmp_path)
    assert config.compress == {}
    assert len(notes) == 1
    assert notes[0].startswith("compress.int8.per_channel is ignored: 'int8' is not chosen")


def test_command_line_wins_over_experiments() -> None:
    config = typed("experiment=sst2_minilm", "teacher.epochs=2", "compress=none")
    assert config.teacher.epochs == 2
    assert config.compress == {}
    assert config.dataset.name == "sst2"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["teacher.name=${nope.x}"], "teacher.name: Interpolation key 'nope.x' not found"),
        (["teacher.path=???"], "teacher.path: has no value yet; give it one"),
        (["name=a/b"], "name: names a folder"),
        (["plugins=[no_such_module]"], "plugins: cannot import 'no_such_module'"),
        (["train.epochs=inf"], "train.epochs: input should be a finite number"),
        (["train.schedule=linaer"], "did you mean 'linear'?"),
        (["compress.int8=3"], "compress.int8: must be settings or null (got 3)"),
        (["loss.terms=3"], "loss.terms: must be a mapping"),
        (["~runtime.onnxruntime"], "runtime: dictionary should have at least 1 item"),
        (["teacher.path=x"], "teacher: has a path and an architecture"),
        (
            ["student=layers", "student.vocab_size=9"],
            "student: vocab_size is for a tokenizer from scratch; layers read",
        ),
        (["student=minilm", "student.vocab_size=9"], "scratch; a checkpoint brings its own: set vocab_size to null"),
    ],
)
def test_what_is_refused(overrides: Sequence[str], message: str) -> None:
    assert message in problem(*overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["compress=bf16"],
            "compress=bf16: no chosen runtime computes bf16 (runtime=onnxruntime has codebook, fp32, int4_weights,",
        ),
        (["runtime=torch"], "add runtime='[torch,onnxruntime]'"),
        (["dataset.metric=acuracy"], "text-classification has no metric 'acuracy'; did you mean 'accuracy'?"),
        (["dataset.task=text-clasification"], "did you mean 'text-classification'?"),
        (["teacher=mlp"], "teacher: mlp reads images, but dataset stdlib_docs holds texts; choose teacher=bert_tiny"),
        (["dataset=mnist", "student=none"], "teacher: bert_tiny reads texts, but dataset mnist holds images"),
        (["student=layers", "student.layers=5"], "5 reaches beyond the teacher, which has 4 layers; take at most 4"),
        (["student=layers", "student.layers=[0,4]"], "[0, 4] reaches beyond the teacher, which has 4 layers"),
        (["student=layers", "student.layers=[1,0]"], "student.layers: must be increasing layer numbers"),
        (["student=layers", "student.layers=[-1,0]"], "student.layers: must be increasing layer numbers"),
        (["loss.terms.kl.weight=0", "loss.terms.hard=null"], "loss.terms: no term has a weight above 0"),
        (["data_dir=/no/such/folder"], "data_dir: no folder '/no/such/folder'"),
        (["teacher.architecture.model_type=null"], "teacher.architecture.model_type: is missing"),
        (["dataset=digits", "teacher=mlp", "student=bilstm"], "student: bilstm reads texts, but dataset digits holds"),
        (
            ["dataset=digits", "teacher=mlp", "student=mlp_small", "student.vocab_size=9"],
            "student.vocab_size: images, which dataset digits holds, have no tokenizer; set it to null",
        ),
        (
            ["loss.terms.jacobian={name: jacobian}", "train.compile=true"],
            "loss.terms.jacobian: jacobian differentiates twice, a compiled model once; set train.compile=false",
        ),
        (
            ["compress=[int8,prune_ffn]"],
            "compress: prune_ffn changes weights, which int8 before it has quantized; put prune_ffn first",
        ),
        (
            ["compress=prune_channels"],
            "compress=prune_channels: is for models of images, but dataset stdlib_docs holds texts; leave it out",
        ),
        (
            ["compress=[svd,prune_heads]"],
            "compress: prune_heads cuts outputs of linears, which svd before it has split; put prune_heads first",
        ),
        (
            ["compress=[share,prune_layers]"],
            "compress: prune_layers tells layers apart, which share before it has made one; put prune_layers first",
        ),
        (
            ["compress=[svd,share]"],
            "compress: share takes the mean of layers, which svd before it has factorized; put share first",
        ),
        (
            ["compress=first_token", "compress.first_token.recover={epochs: 1}"],
            "compress.first_token.recover: no such key of first_token",
        ),
        (
            ["compress=accuracy_control"],
            "compress: accuracy_control changes what a quantizer planned; put one before it",
        ),
        (
            ["compress=[bf16,mixed_precision]", "runtime=torch"],
            "compress: mixed_precision changes what a quantizer planned; put one before it",
        ),
        (
            ["compress=[mixed_precision,int8]"],
            "compress: mixed_precision changes what a quantizer planned; put one before it",
        ),
        (
            ["compress=[int8,int4_weights]"],
            "compress: int8 and int4_weights ask for different precisions; keep one of them",
        ),
        (["compress=merge"], "compress.merge: name the checkpoints to merge with"),
        (
            ["compress.int8.smooth=2"],
            "compress.int8.smooth",
        ),
        (
            ["compress=prune_ffn", "compress.prune_ffn.ratio=1.5"],
            "compress.prune_ffn.ratio",
        ),
        (
            ["compress=[prune,merge]", "compress.merge.paths=[a]"],
            "compress: merge mixes in whole checkpoints, which prune before it has made the model unlike; put merge "
            "first",
        ),
        (
            ["compress=prune_ffn", "compress.prune_ffn.recover={epochs: 1}", "+student@distill.peers.peer=layers"],
            "compress.prune_ffn.recover: students that learn from one another have no teacher; set it to null",
        ),
        (
            [
                "compress=prune_ffn",
                "compress.prune_ffn.recover={epochs: 1}",
                "loss.terms={hidden: {name: hidden}, kl: null, hard: null}",
            ],
            "compress.prune_ffn.recover: no term of the loss teaches by the teacher's logits alone; add kl: loss=kd",
        ),
    ],
)
def test_cross_checks(overrides: Sequence[str], message: str) -> None:
    assert message in problem(*overrides)


def test_odd_orders_are_told() -> None:
    recover = "compress.prune_ffn.recover={epochs: 1}"
    for words, said in {
        ("compress=[prune_ffn,prune,svd,int8]", "compress.prune.recover={epochs: 1}", "compress.svd.recover={}"): [],
        ("compress=[svd,prune]",): [
            "compress: prune comes after svd, as asked for; natural is merge, prune, factorize, share, quantize"
        ],
        ("compress=[prune_ffn,prune_heads,vocabulary]", recover): [
            "compress: nothing recovers what prune_heads changes: prune_ffn has recovered before it"
        ],
    }.items():
        assert list(odd(typed(*words).compress)) == said


def test_precision_needs_one_runtime_only() -> None:
    assert list(typed("compress=bf16", "runtime=[torch,onnxruntime]").compress) == ["bf16"]


def test_one_run_has_one_precision() -> None:
    message = problem("compress=[int8,bf16]", "runtime=[torch,onnxruntime]")
    assert message == "compress: int8 and bf16 ask for different precisions; keep one of them"


def test_loss_does_not_matter_without_a_student() -> None:
    assert typed("student=none", "loss.terms.kl=null", "loss.terms.hard=null").loss.terms == {}


def test_runtime_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name == "onnxruntime" else object())
    assert problem() == "runtime=onnxruntime: not installed: onnxruntime; pip install onnxruntime"


def test_auto_takes_every_runtime_that_works_here(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(checks, "unusable", lambda runtime: "no compiler" if runtime.name == "inductor" else None)
    auto = to_run_config(compose(["runtime=auto"]), notify=told.append)
    assert list(auto.runtime) == ["onnxruntime", "openvino", "torch"]
    assert auto.optional_runtimes == ("onnxruntime", "openvino", "torch")
    assert told == ["runtime=auto leaves inductor out: no compiler"]
    both = typed("runtime=[openvino,auto]")
    assert list(both.runtime) == ["openvino", "onnxruntime", "torch"]
    assert both.optional_runtimes == ("onnxruntime", "torch")
    own = typed("runtime=auto", "+runtime.mine={name: torch}", "+runtime.onnxruntime=null", "compress=none")
    assert list(own.runtime) == ["mine", "openvino"]
    assert own.optional_runtimes == ("openvino",)
    assert typed("runtime=auto", "+runtime.torch.device=cpu").runtime["torch"].model_dump()["device"] == "cpu"
    assert problem("runtime=auto", "+runtime.torch.devise=cpu") == (
        "runtime.torch.devise: no such key of torch; did you mean 'device'?"
    )
    assert problem("runtime=auto", "runtime.auto.device=cuda") == "runtime.auto.device: auto has no settings"


@pytest.mark.parametrize("entry", ["5", "on", "{name: torch}"])
def test_auto_is_chosen_by_its_name_alone(entry: str) -> None:
    assert problem(f"runtime.auto={entry}").startswith("runtime.auto: choose it: runtime=auto (got ")


def test_auto_leaves_out_what_needs_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    class Remote(RUNTIMES["torch"]):  # type: ignore[misc]
        name: Literal["remote"] = "remote"
        address: str

    monkeypatch.setitem(RUNTIMES._items, "remote", Remote)
    told: list[str] = []
    assert "remote" not in to_run_config(compose(["runtime=auto"]), notify=told.append).runtime
    assert "runtime=auto leaves remote out: it has settings that must be given" in told


def test_what_auto_becomes_is_no_key() -> None:
    assert problem("+optional_runtimes=[torch]") == "optional_runtimes: no such key; choose runtime=auto"


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    asked = ("compress=none", "runtime=torch", "runtime.torch.device=cuda")
    assert problem(*asked) == "runtime=torch: device=cuda, but torch sees no GPU here; use device=cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert typed(*asked).runtime["torch"].processor == "cuda"


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_transformers_that_read_images_from_scratch(kind: str) -> None:
    digits = ("dataset=digits", "teacher=cnn", "student=none", "~teacher.architecture")
    assert typed(*digits, f"+teacher.architecture={{model_type: {kind}}}").teacher.architecture == {"model_type": kind}
    message = problem(*digits, "+teacher.architecture={model_type: bert}")
    assert message.startswith("teacher: cnn reads texts, but dataset digits holds images")


def test_modality_and_depth_of_a_local_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "distilbert", "n_layers": 6}')
    (tmp_path / "tokenizer.json").write_text("{}")
    local = ["teacher=bert", f"teacher.path={tmp_path}"]
    assert "which has 6 layers" in problem(*local, "student=layers", "student.layers=7")
    assert "bert reads texts" in problem(*local, "dataset=digits", "student=mlp_small")
    (tmp_path / "preprocessor_config.json").write_text("{}")
    assert "bert reads images" in problem(*local)


def test_plugins_are_in_before_anything_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kdc_shrinking_plugin.py").write_text(
        "from typing import Literal\n"
        "from kdc.compress.base import PASSES, Pass\n"
        "@PASSES.register('shrink')\n"
        "class Shrink(Pass):\n"
        "    name: Literal['shrink']\n"
        "    ratio: float\n"
        "    def apply(self, model, plan):\n"
        "        return model, plan\n"
    )
    (tmp_path / "compress").mkdir()
    (tmp_path / "compress" / "shrink.yaml").write_text("# Shrink\nshrink:\n  name: shrink\n  ratio: 0.5\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugin = ["plugins=[kdc_shrinking_plugin]", "compress=[shrink,int8]"]
    config = typed(*plugin, "compress.shrink.ratio=0.4", extra=tmp_path)
    assert [(key, getattr(step, "ratio", None)) for key, step in config.compress.items()] == [
        ("shrink", 0.4),
        ("int8", None),
    ]
    assert "compress.shrink.ratio: input should be a valid number" in problem(
        *plugin, "compress.shrink.ratio=abc", extra=tmp_path
    )


def test_a_processor_that_is_misspelt_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDC_CPU_FLAGS", "avx3")
    assert "KDC_CPU_FLAGS: 'avx3' is no flag that matters here" in problem("compress=int8")
