"""Rules: what ships, units, overrides, and what is wrong with them in one line."""

from pathlib import Path

import pytest
import yaml

from kdc.compose import config_dir
from kdc.errors import KdcError
from kdc.gate.rules import SUBJECTS, MetricRule, load_rules, shipped


def test_the_default_rules() -> None:
    rules = load_rules()
    assert rules.metrics["primary"].max_drop == "auto"
    assert rules.latency is not None
    assert (rules.latency.max_slowdown, rules.latency.floor, rules.latency.max) == (0.05, 0.05, None)
    assert rules.bytes is not None
    assert rules.bytes.max_growth == 0.01
    assert rules.memory is None


@pytest.mark.parametrize("name", shipped())
def test_shipped_rules_say_what_they_are_and_spell_every_setting(name: str) -> None:
    text = (config_dir() / "gate" / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    for subject, settings in yaml.safe_load(text).items():
        assert set(settings) == set(SUBJECTS.get(subject, MetricRule).model_fields)
    load_rules(name)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "f1: {max_drop: 0.25pp, min: 88%}\nmemory: {max: 1.5GiB}\nbytes: {max: 20MB}\nlatency: {max: 800us}"
    )
    rules = load_rules(str(path))
    assert (rules.metrics["f1"].max_drop, rules.metrics["f1"].min) == (0.0025, 0.88)
    assert rules.memory is not None
    assert rules.memory.max == 1.5 * 2**30
    assert rules.bytes is not None
    assert rules.bytes.max == 20e6
    assert rules.latency is not None
    assert rules.latency.max == 0.8


def test_overrides() -> None:
    words = ["latency.max_slowdown=10%", "primary=null", "mcc.max_drop=0.01", "latency.workload.batch=8"]
    rules = load_rules("default", words)
    assert rules.latency is not None
    assert (rules.latency.max_slowdown, rules.latency.floor) == (0.1, 0.05)
    assert (rules.latency.workload.batch, rules.latency.workload.length) == (8, None)
    assert list(rules.metrics) == ["mcc"]
    assert load_rules("untimed").latency is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["latency.max_slowdown=0.05"], "latency.max_slowdown: 0.05 has no unit; write it like 5%"),
        (["latency.floor=1mss"], "latency.floor: 'mss' is no unit for this; did you mean 'ms'?"),
        (["bytes.max=20mb"], "bytes.max: 'mb' is no unit for this; known: B, GB"),
        (["primary.max_drop=0.5%"], "primary.max_drop: '%' is no unit for this; known: pp"),
        (["primary.max_drop=-1pp"], "primary.max_drop: no such quantity as '-1pp'; write it like 0.5pp"),
        (["latency={floor: 1ms, max: 3ms}"], "latency: floor changes nothing without max_slowdown; give both or"),
        (["latency.max_slowdown=null", "latency.max=3ms"], "latency: floor changes nothing without max_slowdown;"),
        (["bytes.max_groth=1%"], "bytes.max_groth: no such key of bytes; did you mean 'max_growth'?"),
        (["latancy.max_slowdown=1%"], "latancy: no such rule; did you mean 'latency'?"),
        (["latency.workload.batch=0"], "latency.workload.batch: "),
        (["accuracy={}"], "accuracy: limits nothing; give it max_drop or min or max"),
        (["accuracy=1pp"], "accuracy: "),
        (["primary=null", "latency=null", "bytes=null"], "the rules 'default' have no rule left"),
        (["primary"], "'primary' is no override; write it like latency.max_slowdown=10%"),
        (["a..b=1"], "'a..b=1' is no override"),
        (["primary.min={"], "primary.min: '{' is no YAML value"),
        (["bytes.max=x", "latency.max=y"], "2 problems in the rules:"),
    ],
)
def test_wrong_rules_are_told_in_one_line(words: list[str], said: str) -> None:
    with pytest.raises(KdcError) as caught:
        load_rules("default", words)
    assert str(caught.value).startswith(said)
    assert caught.value.exit_code == 2


def test_unknown_rules(tmp_path: Path) -> None:
    with pytest.raises(KdcError, match=r"no rules are called 'defalt'; did you mean 'default'\?"):
        load_rules("defalt")
    with pytest.raises(KdcError, match=r"no file .*mine.yaml; name one, or take shipped rules: default, untimed"):
        load_rules(str(tmp_path / "mine.yaml"))
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(KdcError, match=r"broken.yaml, line 1: .*; correct the YAML there"):
        load_rules(str(tmp_path / "broken.yaml"))
