"""Parsing config text: what is read as a number, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmapkd.config import text
from cmapkd.config.text import MAX_BYTES, MAX_DEPTH, parse, parse_value, render
from cmapkd.core.errors import UsageError

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS
TREES = st.dictionaries(
    WORDS, st.recursive(LEAVES, lambda t: st.lists(t, max_size=3) | st.dictionaries(WORDS, t, max_size=3))
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("-2E5", -2e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("1_000", 1000),
        ("007", 7.0),
        ("true", True),
        ("~", None),
    ],
)
def test_a_number_is_read_as_a_number(text, value):
    assert parse(f"a: {text}", "x") == {"a": value}


@pytest.mark.parametrize("text", ["no", "on", "12:30", "2026-01-31", "-e5", ".inf", ".nan", "train:512", "1.2.3"])
def test_what_only_looks_like_something_else_stays_text(text):
    assert parse(f"a: {text}", "x") == {"a": text}


@given(TREES.filter(bool))
def test_what_is_rendered_is_read_back_equal(tree):
    assert parse(render(tree), "x") == tree


@pytest.mark.parametrize("word", ["1e-3", "yes", "null", "2026-01-31", "", "0x1f", "- a", "a: b", "#", "\u2028x"])
def test_text_that_looks_like_something_else_is_quoted_when_rendered(word):
    assert parse(render({"a": word}), "x") == {"a": word}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x 1\nb: *x", ["line 2", "alias *x", "write the value out"]),
        ("a: !!python/object/apply:os.system [ls]", ["line 1", "tag", "not allowed"]),
        ("a: !!binary aGk=", ["tag"]),
        ("a: 1\nb: 2\na: 3", ["line 3", "'a' occurs twice"]),
        ("s:\n  a: 1\n  a: 3", ["line 3", "'a' occurs twice"]),
        ("? [1, 2]\n: 3", ["line 1", "a key must be a word"]),
        ("a: " + "[" * 30 + "]" * 30, ["deeper than 20"]),
        ("a: [" + "1," * 10_000 + "]", ["more than 10000 values"]),
        ("a: [1", ["line 1"]),
        ("a: 'open", ["line 1"]),
        ("a: \x00", ["not valid YAML"]),
        ("- 1", ["holds no keys", "cmapkd init"]),
        ("", ["holds no keys"]),
    ],
)
def test_what_a_config_must_not_hold_is_refused_with_its_line(text, words):
    with pytest.raises(UsageError) as caught:
        parse(text, "c.yaml")
    assert str(caught.value).startswith("config c.yaml") and "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)


def test_a_merge_key_merges_nothing():
    assert parse("<<: {a: 1}", "x") == {"<<": {"a": 1}}


def test_a_text_over_the_limit_is_refused_before_it_is_parsed(monkeypatch):
    monkeypatch.setattr(text.yaml, "load", lambda *_: pytest.fail("parsed"))
    with pytest.raises(UsageError, match="larger than 1000000 bytes"):
        parse("a: [" + "[" * MAX_BYTES, "x")


def test_deep_nesting_within_the_size_limit_ends_at_the_limit_of_depth(monkeypatch):
    loaders = []
    real = text._Loader.__init__
    monkeypatch.setattr(text._Loader, "__init__", lambda self, given: (loaders.append(self), real(self, given))[1])
    with pytest.raises(UsageError, match="nested deeper"):
        parse("a: " + "[" * (MAX_BYTES - 10), "x")
    (loader,) = loaders
    assert loader.depth == MAX_DEPTH + 1 and loader.index < 10_000, "what lies beyond the limit is not read"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("3", 3), ("true", True), ("null", None), ("", None), ("[1, 2]", [1, 2]), ("{a: 1}", {"a": 1}),
        ("'12'", "12"), ("a: b", "a: b"), ("#", "#"), ("*x", "*x"), ("---", "---"), ('"', '"'), ("-", "-"),
    ],
)  # fmt: skip
def test_a_value_on_the_command_line_is_a_scalar_unless_it_is_bracketed(text, value):
    assert parse_value(text, "override") == value
