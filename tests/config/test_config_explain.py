"""Every error in a config is one line: key, value, rule, nearest right name."""

from __future__ import annotations

import pytest

from cmapkd.config.explain import known_paths
from cmapkd.config.load import check, dump_config
from cmapkd.config.suite import read_suite
from cmapkd.core.errors import UsageError

BASE = {"run": "r", "data": {"train": "scenes:8"}, "student": {"model": "m"}, "train": {"steps": 1}}


def errors(**changes) -> list[str]:
    with pytest.raises(UsageError) as caught:
        check({**BASE, **changes}, "c.yaml")
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"train": {"steps": 1, "batch": 1}}, "train.batch is 1; must be greater than or equal to 2"),
        ({"train": {"steps": 1, "bach": 4}}, "unknown key 'train.bach' (did you mean 'train.batch'?)"),
        ({"batch": 4}, "unknown key 'batch' (did you mean 'train.batch'?)"),
        ({"trian": {}}, "unknown key 'trian' (did you mean 'train'?)"),
        ({"train": {"steps": 1, "zzz": 4}}, "unknown key 'train.zzz'; known here: steps, epochs, batch,"),
        ({"train": {"steps": 1, "precision": "bf61"}}, "is 'bf61'; must be 'auto', 'fp32' or 'bf16' (did you mean 'bf16'?)"),
        ({"student": {}}, "key 'student.model' is missing"),
        ({"cache": 3}, "cache is 3; must be a section"),
        ({"cache": None}, "cache is empty; must be a section"),
        ({"cache": {"rank": 100}}, "cache: rank is 100, but must be a power of 2"),
        ({"train": {"steps": 1, "epochs": 1}}, "train: give exactly one of steps and epochs"),
        ({"run": 3}, "run is 3; must be a path; a number that is meant as a path goes in quotes"),
        ({"seed": "x" * 500}, "seed is 'xxx"),
        ({"schedule": [{"name": "a", "until": 3}]}, "schedule.0.until is 3; must be less than or equal to 1"),
        ({"schedule": [{"name": "a", "until": 1, "levls": []}]}, "(did you mean 'schedule.0.levels'?)"),
        ({"policy": {"weights": {"P7": 1}}}, "policy.weights.P7 is 'P7'; must be 'P2',"),
        ({"train": {"steps": 1, "lr": float("inf")}}, "train.lr is inf; it must be a finite number"),
        ({"seed": "7.5"}, "seed is '7.5'; must be a valid integer, unable to parse string as an integer"),
        ({"seed": 7.5}, "seed is 7.5; must be a valid integer, got a number with a fractional part"),
        ({"seed": float("nan")}, "seed is nan; must be a finite number"),
        ({"data": {"train": "x", "views": "0"}}, "data.views is '0'; must be greater than or equal to 1"),
        ({"data": {"train": "x", "flip": "maybe"}}, "data.flip is 'maybe'; must be a valid boolean"),
        ({"data": {"train": "x", "crop": [0.5]}}, "data.crop is [0.5]; must be a list of 2 values"),
        ({"data": {"train": "x", "crop": 0.5}}, "data.crop is 0.5; must be a list"),
        ({"weights": {"fd": -1}}, "weights.fd is -1; must be greater than or equal to 0"),
        ({"weights": []}, "weights is []; must be a section"),
        ({"options": {"logits": {"temperature": [1]}}}, "options.logits.temperature is [1]; must be a valid number"),
        ({"schedule": 3}, "schedule is 3; must be text"),
        ({"schedule": [3]}, "schedule.0 is 3; must be a section"),
    ],
)  # fmt: skip
def test_an_error_names_key_value_rule_and_the_nearest_right_name(changes, line):
    (found,) = errors(**changes)
    assert found.startswith("config c.yaml: ") and line in found and len(found) < 300


def test_several_errors_are_listed_one_a_line():
    found = errors(student={}, seed="x", trian={})
    assert len(found) == 3 and all(line.startswith("config c.yaml: ") for line in found)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"seed": "7"}, {"seed": 7}),
        ({"seed": 7.0}, {"seed": 7}),
        ({"weights": {"fd": "1e-3"}}, {"weights": {"fd": 0.001}}),
        ({"data": {"train": "x", "flip": "yes", "regions": "off"}}, {"data": {"train": "x", "flip": True}}),
        ({"train": {"steps": "10", "betas": ["0.5", 0]}}, {"train": {"steps": 10, "betas": [0.5, 0.0]}}),
        ({"schedule": [{"name": "a", "until": "1"}]}, {"schedule": [{"name": "a", "until": 1}]}),
        (
            {"seed": "7", "options": {"logits": {"b": 2, "c": "2"}}},
            {"seed": 7, "options": {"logits": {"b": 2.0, "c": "2"}}},
        ),
    ],
)
def test_a_number_in_quotes_and_a_word_for_true_are_read_as_what_is_meant(changes, same):
    def loaded(keys: dict) -> str:
        return dump_config(check({**BASE, **keys}, "c.yaml"))

    assert loaded(changes) == loaded(same)


def test_of_a_suite_the_entry_and_its_own_keys_are_named():
    with pytest.raises(UsageError) as caught:
        read_suite({"retreival": {}, "vqa": {"train": "t", "val": "v", "epocs": 3, "name": "a/b"}}, "suite s")
    assert str(caught.value).splitlines() == [
        "suite s: unknown key 'retreival' (did you mean 'retrieval'?)",
        "suite s: unknown key 'vqa.0.epocs' (did you mean 'vqa.0.epochs'?)",
        r"suite s: vqa.0.name is 'a/b'; string should match pattern '^[\w. -]*\Z'",
    ]
    with pytest.raises(UsageError, match="^suite s: retrieval: entries of one task need a name each"):
        read_suite({"retrieval": [{"data": "a"}, {"data": "b"}]}, "suite s")


def test_every_key_of_the_schema_is_known():
    paths = known_paths()
    assert {"train.batch", "schedule.levels", "data.crop", "teacher.weights", "run"} <= set(paths)
