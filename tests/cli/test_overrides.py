"""Words that Hydra's grammar refuses are quoted, no others; wrong keys and choices are named before Hydra sees them."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from kdc.cli.overrides import prepare
from kdc.compose import compose, quote
from kdc.errors import KdcError

HOME = str(Path.home())


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("data_dir=plain/path-1.5", "plain/path-1.5"),
        ("seed=3", 3),
        ("train.learning_rate=5e-5", 5e-5),
        ("dry_run=true", True),
        ("data_dir=null", None),
        ("data_dir='quoted, already'", "quoted, already"),
        ("data_dir=~/x", f"{HOME}/x"),
        ("data_dir=a~b", "a~b"),
        ("data_dir=données", "données"),
        ("data_dir=a=b", "a=b"),
        ("data_dir=a#b", "a#b"),
        ("data_dir=it's", "it's"),
        ("data_dir=My (copy)/x", "My (copy)/x"),
        ("data_dir=x[1].csv", "x[1].csv"),
        ("data_dir=C:\\temp", "C:\\temp"),
        ("data_dir=", ""),
        ("dataset.files.train=[~/a,b#c, plain, 3]", [f"{HOME}/a", "b#c", "plain", 3]),
        ("dataset.labels={0: négatif, 1: 'a, b'}", {0: "négatif", 1: "a, b"}),
    ],
)
def test_values_arrive_as_meant(word: str, value: object) -> None:
    (ready,) = prepare([word])
    assert OverridesParser.create().parse_override(ready).value() == value


def test_readable_words_are_left_alone() -> None:
    words = ["compress=[int8,bf16]", "train.epochs=2", "+teacher.x=1", "~loss.terms.hard", "name=${teacher.name}"]
    assert prepare(words) == words
    assert prepare(["train.epochs=range(1,4)", "compress=none,int8"], sweep=True) == [
        "train.epochs=range(1,4)",
        "compress=none,int8",
    ]


def test_elements_of_a_sweep_are_quoted_one_by_one() -> None:
    assert prepare(["data_dir=~/a,é"], sweep=True) == [f"data_dir='{HOME}/a','é'"]


def test_quote_round_trips() -> None:
    for text in ("it's", 'say "x"', "back\\slash", "ends with \\", "\\'", "a,b=[c]{d}"):
        assert OverridesParser.create().parse_override(f"name={quote(text)}").value() == text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compress=inte8"], "compress=inte8: no such choice; did you mean 'int8'?"),
        (["teacher=3"], "teacher=3: no such choice; known: bert"),
        (["compress=[int8,int8]"], "compress: 'int8' stands twice; a second one needs a key of its own"),
        (["compress=null"], "compress=null: not a choice; write compress=none"),
        (["teacher=null"], "teacher=null: not a choice; leave it out"),
        (["~compress"], "~compress: a group cannot be deleted; write compress=none"),
        (["teacher=[bert,minilm]"], "teacher: takes one choice, not a list"),
        (["trian.epochs=1"], "trian.epochs: no such key; did you mean 'train'?"),
        (["+foo=1"], "foo: no such key; known: bench"),
        (
            ["train.epochs=1", "train.epochs=2"],
            "train.epochs: given 2 times (train.epochs=1, train.epochs=2); keep one",
        ),
        (["train.epochs=1,2"], "train.epochs: several values make a sweep; add -m, or write train.epochs=\"'1,2'\""),
        (["train.epochs"], "'train.epochs' is not key=value; overrides look like train.epochs=2"),
    ],
)
def test_what_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(KdcError) as caught:
        prepare(words)
    assert str(caught.value).startswith(message)


def test_a_mapping_may_be_given_anew() -> None:
    anew = ["~teacher.architecture", "+teacher.architecture={model_type: gpt2, n_layer: 2}"]
    assert compose(prepare(anew)).teacher.architecture == {"model_type": "gpt2", "n_layer": 2}
    with pytest.raises(KdcError, match="given 2 times"):
        prepare(anew[::-1])


def test_all_problems_are_told_together() -> None:
    with pytest.raises(KdcError) as caught:
        prepare(["foo=1", "compress=nope", "teacher"])
    assert str(caught.value).splitlines()[0] == "3 problems:"
    assert len(str(caught.value).splitlines()) == 4


def test_null_within_a_sweep_of_groups() -> None:
    assert prepare(["experiment=null"]) == ["experiment=null"]
    with pytest.raises(KdcError, match="experiment=null: not a choice"):
        prepare(["experiment=sst2_minilm,null"], sweep=True)


def test_choices_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "mine.yaml").write_text("# Mine\nname: mine\n")
    assert prepare(["student=mine"], extra=tmp_path) == ["student=mine"]
    with pytest.raises(KdcError, match="student=mine: no such choice"):
        prepare(["student=mine"])
