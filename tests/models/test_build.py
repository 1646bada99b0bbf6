"""Teacher and student come from where their YAML says, with the data's labels in the data's order."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdc.compress.plan import PrecisionPlan
from kdc.compress.prune_ffn import PruneFfn
from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.export.modules import graph_callables
from kdc.models.build import Built, build_model, checkpoint_labels, load_model, match_labels, save_model
from kdc.models.settings import Needs
from kdc.models.spec import StudentConfig, TeacherConfig
from kdc.stages.training import checkpoint_identity
from kdc.tasks.image import ImageEncoder
from kdc.tasks.text import TextEncoder
from tests import tiny

ROWS = tiny.sentences(40)
BERT = {
    "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 24,
}  # fmt: skip


def needs(examples: Examples = ROWS, *, max_length: int = 16) -> Needs:
    name = "text-classification" if "text" in examples else "image-classification"
    return Needs(tiny.task(name), examples, max_length, None)


def teacher(**settings: Any) -> TeacherConfig:
    return TeacherConfig(name="teacher", **settings)


def student(**settings: Any) -> StudentConfig:
    return StudentConfig(name="student", **settings)


def logits(built: Built, examples: Examples) -> np.ndarray:
    task = needs(examples).task
    graphs = task.graphs(built.model.eval(), built.encoder, examples)
    return graph_callables(graphs)["forward"](graphs[0].sample)["logits"]


def saved(folder: Path, *, labels: tuple[str, ...] = tiny.LABELS) -> Built:
    built = tiny.built_bert(Examples(ROWS.columns, labels))
    save_model(built, folder)
    return built


# From scratch


def test_a_text_model_from_scratch_gets_a_tokenizer_and_the_datas_labels() -> None:
    built = build_model(teacher(architecture=BERT, vocab_size=120), "teacher", needs())
    assert built.new_head
    assert isinstance(built.encoder, TextEncoder)
    assert built.encoder.max_length == 16
    assert built.encoder.inputs == ("input_ids", "token_type_ids", "attention_mask")
    assert built.model.config.vocab_size == built.encoder.vocab_size <= 120
    assert built.model.config.id2label == {0: "negative", 1: "positive"}
    assert logits(built, ROWS).shape == (40, 2)


def test_a_tokenizer_from_scratch_reads_both_texts_of_a_pair() -> None:
    pairs = Examples({"text": ["aa bb"] * 4, "text_pair": ["qq ww"] * 4, "label": np.arange(4) % 2}, ("no", "yes"))
    built = build_model(teacher(architecture=BERT), "teacher", needs(pairs))
    assert isinstance(built.encoder, TextEncoder)
    assert built.encoder._tokenizer.token_to_id("qq") is not None


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        ({"model_type": "kdc-mlp", "hidden_sizes": [16]}, "MLP"),
        ({"model_type": "kdc-cnn", "channels": [4], "hidden_size": 8}, "CNN"),
    ],
)
def test_image_models_from_scratch_take_size_and_channels_from_the_data(architecture: Any, kind: str) -> None:
    rows = tiny.pictures(12, side=6, channels=3)
    built = build_model(teacher(architecture=architecture), "teacher", needs(rows))
    assert type(built.model).__name__ == kind
    assert built.model.config.image_size == 6
    assert built.model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert logits(built, rows).shape == (12, 3)
    pupil = build_model(
        student(architecture={"model_type": "kdc-mlp", "hidden_sizes": [4]}), "student", needs(rows), teacher=built
    )
    assert pupil.encoder is built.encoder


def test_a_student_from_scratch_uses_the_teachers_tokenizer_within_its_own_positions() -> None:
    from_teacher = build_model(teacher(architecture=BERT), "teacher", needs())
    short = {**BERT, "max_position_embeddings": 6}
    built = build_model(student(architecture=short), "student", needs(), teacher=from_teacher)
    assert isinstance(built.encoder, TextEncoder)
    assert isinstance(from_teacher.encoder, TextEncoder)
    assert built.encoder.vocab_size == from_teacher.encoder.vocab_size
    assert (built.encoder.max_length, from_teacher.encoder.max_length) == (6, 16)
    assert logits(built, ROWS).shape == (40, 2)


@pytest.mark.parametrize("architecture", [BERT, {"model_type": "kdc-bilstm"}, {"model_type": "kdc-textcnn"}])
def test_a_student_from_scratch_may_have_a_tokenizer_of_its_own(architecture: dict[str, Any], tmp_path: Path) -> None:
    from_teacher = tiny.built_bert(ROWS)
    assert isinstance(from_teacher.encoder, TextEncoder)
    shared, own = (
        build_model(student(architecture=architecture, vocab_size=size), "student", needs(), teacher=from_teacher)
        for size in (None, 60)
    )
    assert isinstance(shared.encoder, TextEncoder)
    assert isinstance(own.encoder, TextEncoder)
    assert shared.model.config.vocab_size == shared.encoder.vocab_size == from_teacher.encoder.vocab_size
    assert own.model.config.vocab_size == own.encoder.vocab_size == 60
    assert own.encoder.max_length == 16
    assert own.model.get_input_embeddings().num_embeddings == 60
    assert own.encoder.encode(ROWS) != shared.encoder.encode(ROWS)
    assert logits(own, ROWS).shape == (40, 2)
    save_model(own, tmp_path)
    np.testing.assert_array_equal(logits(load_model(tmp_path, tiny.task()), ROWS), logits(own, ROWS))


def test_plain_nets_for_texts_are_checkpoints_too(tmp_path: Path) -> None:
    built = tiny.built_text_net(ROWS, "bilstm")
    built.model.config.id2label = dict(enumerate(reversed(tiny.LABELS)))
    save_model(built, tmp_path)
    assert checkpoint_labels(tmp_path, tiny.task()) == ["positive", "negative"]
    assert checkpoint_labels(tmp_path, tiny.task("image-classification")) == []
    loaded = build_model(teacher(path=str(tmp_path)), "teacher", needs(max_length=32))
    assert not loaded.new_head
    np.testing.assert_allclose(logits(loaded, ROWS), logits(built, ROWS)[:, ::-1], rtol=1e-6)


@pytest.mark.parametrize(
    ("architecture", "says"),
    [
        (
            {"model_type": "kdc-bilstm", "pooling": "sum"},
            r"teacher\.architecture: pooling must be one of last, max, mean",
        ),
        ({"hidden_size": 8}, r"teacher\.architecture has no model_type"),
        ({"model_type": "brt"}, r"teacher\.architecture: no model_type is called 'brt'; did you mean 'bert'\?"),
        ({**BERT, "hidden_size": 31}, r"teacher\.architecture: .*31"),
        ({**BERT, "hidden_size": "wide"}, r"teacher\.architecture: .*'hidden_size' expected int"),
    ],
)
def test_an_architecture_that_cannot_be_built_is_one_line(architecture: Any, says: str) -> None:
    with pytest.raises(KdcError, match=says) as caught:
        build_model(teacher(architecture=architecture), "teacher", needs())
    assert "\n" not in str(caught.value)


# From a checkpoint


def test_a_checkpoint_without_a_head_gets_a_new_one(tmp_path: Path) -> None:
    built = saved(tmp_path)
    built.model.bert.save_pretrained(tmp_path)
    assert checkpoint_labels(tmp_path, tiny.task()) == []
    loaded = build_model(teacher(path=str(tmp_path)), "teacher", needs())
    assert loaded.new_head
    body = built.model.bert.state_dict()
    assert all(torch.equal(tensor, body[name]) for name, tensor in loaded.model.bert.state_dict().items())
    assert loaded.model.config.id2label == {0: "negative", 1: "positive"}


def test_a_head_with_the_datas_labels_is_used_as_it_is(tmp_path: Path) -> None:
    built = saved(tmp_path)
    loaded = build_model(teacher(path=str(tmp_path)), "teacher", needs(max_length=32))
    assert not loaded.new_head
    np.testing.assert_array_equal(logits(loaded, ROWS), logits(built, ROWS))


def test_labels_in_another_order_are_matched_by_name(tmp_path: Path) -> None:
    theirs, ours = ("fish", "bird", "cat"), ("Cat", "fish", "bird")
    built = saved(tmp_path, labels=theirs)
    rows = Examples(ROWS.columns, ours)
    loaded = build_model(teacher(path=str(tmp_path)), "teacher", needs(rows, max_length=32))
    assert not loaded.new_head
    np.testing.assert_allclose(logits(loaded, rows), logits(built, rows)[:, [2, 0, 1]], rtol=0, atol=1e-6)
    assert loaded.model.config.id2label == {0: "Cat", 1: "fish", 2: "bird"}
    assert loaded.model.config.label2id == {"Cat": 0, "fish": 1, "bird": 2}


@pytest.mark.parametrize("head", ["LABEL_0", "bad"])
def test_labels_of_other_names_need_a_map(tmp_path: Path, head: str) -> None:
    names = ("LABEL_0", "LABEL_1") if head == "LABEL_0" else ("bad", "good")
    built = saved(tmp_path, labels=names)
    with pytest.raises(KdcError, match=rf"teacher: the checkpoint's labels \({names[0]}, {names[1]}\).*label_map="):
        build_model(teacher(path=str(tmp_path)), "teacher", needs())
    label_map = {names[0]: "positive", names[1]: "negative"}
    loaded = build_model(teacher(path=str(tmp_path), label_map=label_map), "teacher", needs(max_length=32))
    np.testing.assert_allclose(logits(loaded, ROWS), logits(built, ROWS)[:, ::-1], rtol=0, atol=1e-6)


def test_a_model_that_kdc_has_cut_is_a_checkpoint_too(tmp_path: Path) -> None:
    built = tiny.built_bert(ROWS)
    PruneFfn(name="prune_ffn", score="l2", align=1).apply(built.model, PrecisionPlan())
    save_model(built, tmp_path)
    again = build_model(teacher(path=str(tmp_path)), "teacher", needs())
    assert not again.new_head
    np.testing.assert_allclose(logits(again, ROWS), logits(built, ROWS), atol=1e-6)
    turned = Examples(ROWS.columns, tiny.LABELS[::-1])
    other = build_model(teacher(path=str(tmp_path)), "teacher", needs(turned))
    np.testing.assert_allclose(logits(other, turned), logits(built, ROWS)[:, ::-1], atol=1e-6)
    identity, _ = checkpoint_identity(teacher(path=str(tmp_path)), "teacher", tiny.task())
    assert "shapes.json" in identity


def test_a_head_with_another_number_of_labels_is_refused_or_replaced(tmp_path: Path) -> None:
    saved(tmp_path, labels=("negative", "neutral", "positive"))
    with pytest.raises(KdcError, match=r"3 labels \(negative, neutral, positive\).*has 2.*teacher\.train=always"):
        build_model(teacher(path=str(tmp_path)), "teacher", needs())
    with pytest.raises(KdcError, match=r"student: .* 3 labels .*; use a checkpoint without a head"):
        build_model(student(path=str(tmp_path)), "student", needs())
    loaded = build_model(teacher(path=str(tmp_path), train="always"), "teacher", needs())
    assert loaded.new_head
    assert logits(loaded, ROWS).shape == (40, 2)


def test_a_teacher_that_trains_always_keeps_a_head_for_its_labels_in_the_datas_order(tmp_path: Path) -> None:
    built = saved(tmp_path, labels=("positive", "negative"))
    loaded = build_model(teacher(path=str(tmp_path), train="always"), "teacher", needs(max_length=32))
    assert not loaded.new_head
    np.testing.assert_allclose(logits(loaded, ROWS), logits(built, ROWS)[:, ::-1], rtol=0, atol=1e-6)


def test_a_teacher_that_trains_always_gets_a_new_head_for_other_labels(tmp_path: Path) -> None:
    built = saved(tmp_path, labels=("fish", "bird"))
    loaded = build_model(teacher(path=str(tmp_path), train="always"), "teacher", needs())
    assert loaded.new_head
    old, new = built.model.classifier, loaded.model.classifier
    assert old.weight.shape == new.weight.shape
    assert not (old.weight == new.weight).any()
    assert not new.bias.any()
    assert torch.equal(loaded.model.bert.pooler.dense.weight, built.model.bert.pooler.dense.weight)


@pytest.mark.parametrize(
    ("lost", "says"),
    [
        (["classifier.weight", "classifier.bias"], None),
        (["bert.pooler.dense.weight", "bert.pooler.dense.bias"], None),
        (
            ["bert.encoder.layer.1.output.dense.weight"],
            r"lacks 1 .* among them bert\.encoder\.layer\.1\.output\.dense\.weight",
        ),
    ],
    ids=["head", "pooler", "body"],
)
def test_weights_that_a_checkpoint_lacks(tmp_path: Path, lost: list[str], says: str | None) -> None:
    from safetensors.torch import load_file, save_file

    saved(tmp_path)
    weights = {name: w for name, w in load_file(tmp_path / "model.safetensors").items() if name not in lost}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    if says is None:
        assert build_model(teacher(path=str(tmp_path)), "teacher", needs()).new_head
    else:
        with pytest.raises(KdcError, match=says):
            build_model(teacher(path=str(tmp_path)), "teacher", needs())


def test_a_body_of_other_sizes_is_refused_where_the_head_may_be_new(tmp_path: Path) -> None:
    built = saved(tmp_path)
    built.model.bert.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(settings | {"vocab_size": 7}), encoding="utf-8")
    with pytest.raises(KdcError, match=r"among them bert\.embeddings\.word_embeddings\.weight"):
        build_model(teacher(path=str(tmp_path)), "teacher", needs())


def test_a_plain_net_without_its_last_layer_has_a_new_head(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    rows = tiny.pictures(12)
    save_model(tiny.built_net(rows, "mlp"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    named = {"id2label": {str(i): name for i, name in enumerate(rows.labels)}}
    (tmp_path / "config.json").write_text(json.dumps(config | named), encoding="utf-8")
    weights = load_file(tmp_path / "model.safetensors")
    for lost, body in (("layers.7", False), ("layers.1", True)):
        kept = {name: weight for name, weight in weights.items() if not name.startswith(lost)}
        save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
        if body:
            with pytest.raises(KdcError, match=r"among them layers\.1\.bias"):
                build_model(teacher(path=str(tmp_path)), "teacher", needs(rows))
        else:
            assert build_model(teacher(path=str(tmp_path)), "teacher", needs(rows)).new_head


def test_a_checkpoint_that_brings_code_is_one_line_and_asks_nothing(tmp_path: Path) -> None:
    saved(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    brought = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(settings | brought), encoding="utf-8")
    with pytest.raises(KdcError, match="runs no code that a checkpoint brings"):
        build_model(teacher(path=str(tmp_path)), "teacher", needs())


def test_match_labels_ignores_case_and_refuses_a_map_that_names_one_label_twice() -> None:
    assert match_labels(["B", "a"], ["A", "b"], {}, "teacher") == [1, 0]
    with pytest.raises(KdcError, match="label_map"):
        match_labels(["x", "y"], ["a", "b"], {"x": "a", "y": "a"}, "teacher")


def test_the_limits_of_model_and_tokenizer_bound_the_length(tmp_path: Path) -> None:
    saved(tmp_path)
    assert build_model(teacher(path=str(tmp_path)), "teacher", needs(max_length=500)).encoder.max_length == 32  # type: ignore[attr-defined]
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 10}), encoding="utf-8")
    assert build_model(teacher(path=str(tmp_path)), "teacher", needs(max_length=500)).encoder.max_length == 10  # type: ignore[attr-defined]


def test_image_checkpoints_come_with_their_preprocessing(tmp_path: Path) -> None:
    rows = tiny.pictures(12)
    built = build_model(teacher(architecture={"model_type": "kdc-mlp", "hidden_sizes": [8]}), "teacher", needs(rows))
    save_model(built, tmp_path)
    loaded = build_model(teacher(path=str(tmp_path)), "teacher", needs(rows))
    assert isinstance(loaded.encoder, ImageEncoder)
    assert not loaded.new_head
    np.testing.assert_array_equal(logits(loaded, rows), logits(built, rows))
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(KdcError, match=r"has no preprocessor_config\.json"):
        build_model(teacher(path=str(tmp_path)), "teacher", needs(rows))


def test_saved_models_load_alike(tmp_path: Path) -> None:
    built = saved(tmp_path)
    loaded = load_model(tmp_path, tiny.task())
    np.testing.assert_array_equal(logits(loaded, ROWS), logits(built, ROWS))
    assert loaded.encoder.encode(ROWS) == built.encoder.encode(ROWS)
    assert not loaded.model.training


# From the teacher's layers


def test_a_student_of_the_teachers_layers_says_which() -> None:
    from_teacher = tiny.built_bert(ROWS, layers=4)
    built = build_model(student(layers=2), "student", needs(), teacher=from_teacher)
    assert built.notes == ["student layers from the teacher's: 0<-1, 1<-3"]
    assert built.model.config.num_hidden_layers == 2
    everything = build_model(student(layers=[0, 1, 2, 3]), "student", needs(), teacher=from_teacher)
    np.testing.assert_array_equal(logits(everything, ROWS), logits(from_teacher, ROWS))
    with pytest.raises(KdcError, match=r"student\.layers=5: the teacher has 4 layers"):
        build_model(student(layers=5), "student", needs(), teacher=from_teacher)


def test_layers_of_a_plain_net_are_refused() -> None:
    rows = tiny.pictures(12)
    mlp = build_model(teacher(architecture={"model_type": "kdc-mlp"}), "teacher", needs(rows))
    with pytest.raises(KdcError, match="MLP has no stack of layers"):
        build_model(student(layers=2), "student", needs(rows), teacher=mlp)


def test_layers_of_a_bilstm_are_layers() -> None:
    """The first reads embeddings: another may take its place only where these are as wide as a layer's outputs."""
    deep = tiny.built_text_net(ROWS, "bilstm", num_hidden_layers=3)
    built = build_model(student(layers=[0, 2]), "student", needs(), teacher=deep)
    torch.testing.assert_close(built.model.layers[1].back.weight_hh_l0, deep.model.layers[2].back.weight_hh_l0)
    assert logits(built, ROWS).shape == (40, 2)
    with pytest.raises(KdcError, match=r"the layers of BiLSTM are not all alike.*keep layer 0 as the first"):
        build_model(student(layers=[1, 2]), "student", needs(), teacher=deep)


# What is not there


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/no/such/folder", r"teacher\.path: there is no folder /no/such/folder"),
        ("./none", r"teacher\.path: there is no folder \./none"),
        ("nobody/nothing", r"teacher\.path: model 'nobody/nothing' is not in the hub cache.*set teacher\.path="),
        ("bert-base-uncased", r"teacher\.path: model 'bert-base-uncased' is not in the hub cache.*kdc list teacher"),
        ("not a name", r"teacher\.path: .*not a name"),
    ],
)
def test_a_model_that_is_not_there_is_one_quick_line(path: str, says: str) -> None:
    started = time.monotonic()
    with pytest.raises(KdcError, match=says) as caught:
        build_model(teacher(path=path), "teacher", needs())
    assert time.monotonic() - started < 5
    assert "\n" not in str(caught.value)


def test_a_cut_model_keeps_its_number_of_labels(tmp_path: Path) -> None:
    built = tiny.built_bert(Examples(ROWS.columns, ("bad", "fair", "good")))
    PruneFfn(name="prune_ffn", score="l2", include=["*.0"]).apply(built.model, PrecisionPlan())
    save_model(built, tmp_path)
    with pytest.raises(KdcError, match=r"was cut for 3 labels, the data has 2; take a checkpoint that was not cut"):
        build_model(teacher(path=str(tmp_path), train="always"), "teacher", needs())


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_that_lacks_a_file_says_so(tmp_path: Path, missing: str) -> None:
    saved(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(KdcError, match=r"teacher\.path: "):
        build_model(teacher(path=str(tmp_path)), "teacher", needs())


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    saved(tmp_path / "whole")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copytree(tmp_path / "whole", tmp_path / name)
        (tmp_path / name / name).write_text("{ this is not", encoding="utf-8")
        with pytest.raises(KdcError, match=r"teacher\.path: ") as caught:
            build_model(teacher(path=str(tmp_path / name)), "teacher", needs())
        assert "\n" not in str(caught.value)
