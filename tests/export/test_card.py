"""The model card says everything it must, or is not written."""

from __future__ import annotations

import pytest

from cmapkd.core.errors import UsageError
from cmapkd.export.card import REQUIRED, model_card

FACTS = {
    "name": "student-small", "license": "apache-2.0", "method": "cmapkd", "teacher": "ViT-L-14", "student": "small-64",
    "params": 2_345_678, "data": ["scenes/train · 8000 images · data 0123abcd"],
    "scores": ["retrieval (standard) · scenes/test · 1000 images · data 89ef: mean_recall@1 61.20 %"],
    "command": "cmapkd train configs/scenes.yaml --seed 0", "steps": 4000, "seed": 0,
}  # fmt: skip


def test_the_card_holds_license_fingerprint_scores_teacher_method_and_command() -> None:
    card = model_card(FACTS)
    assert card.startswith("---\nlicense: apache-2.0\n")
    for part in (
        "0123abcd",
        "61.20 %",
        "ViT-L-14",
        "`cmapkd`",
        "cmapkd train configs/scenes.yaml --seed 0",
        "2.3 M",
        "steps: 4000",
    ):
        assert part in card


@pytest.mark.parametrize("key", REQUIRED)
def test_a_card_without_a_needed_fact_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match=f"{key} missing"):
        model_card({**FACTS, key: ""})


def test_synthetic_data_is_said_loudly() -> None:
    assert "synthetic" in model_card({**FACTS, "synthetic": True})
    assert "synthetic" not in model_card(FACTS)


def test_a_line_break_in_a_fact_cannot_start_a_heading_or_a_key() -> None:
    card = model_card({**FACTS, "license": "mit\ntags: [x]", "data": ["a\n# b"]})
    assert "\ntags: [x]" not in card and "\n# b" not in card


def test_a_runs_own_facts_are_enough() -> None:
    facts = {
        **FACTS,
        "data": "scenes/train",
        "fingerprint": "0123abcd",
        "scores": {"mean_recall@1": 0.612, "text_retrieval_medr": 2.0},
    }
    card = model_card(facts)
    for part in ("scenes/train", "fingerprint 0123abcd", "mean_recall@1: 61.20 %", "text_retrieval_medr: 2\n"):
        assert part in card


def test_a_missing_license_is_said_and_not_invented() -> None:
    card = model_card({key: value for key, value in FACTS.items() if key != "license"})
    assert "license: other" in card
    assert "No licence was stated" in card
    assert "No licence was stated" not in model_card(FACTS)
