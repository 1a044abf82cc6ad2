"""The rule of what is left of a method: by what teacher and student give, and by the sides of the student that learn."""

import pytest

from cmapkd.core.errors import UsageError
from cmapkd.core.types import IMAGE_LEVELS, LEVELS
from cmapkd.methods import METHODS
from cmapkd.pyramid.levels import Shape
from cmapkd.train.setup.availability import Model, available, common_levels, reasons_off

SIZES = (4,) * 4, (2, 2, 2, 1)
WHOLE = Shape(*SIZES, (4,) * 4, 8)
IMAGES = Shape(*SIZES, (), 8, sides=("image",))
FINAL_TEXTS = Shape(*SIZES, (), 8)
NO_WORDS = Shape(*SIZES, (4,) * 4, 8, words=False)


def off(method: str, teacher: Shape, student: Shape = WHOLE, frozen=()) -> set[str]:
    return set(reasons_off(METHODS[method].weights, Model("teacher t", teacher), Model("student s", student, frozen)))


def test_two_whole_models_have_all_terms_and_levels():
    assert not any(off(name, WHOLE) for name in METHODS)
    assert common_levels(Model("t", WHOLE), Model("s", WHOLE)) == LEVELS


def test_an_image_only_teacher_keeps_image_levels_relations_and_halves():
    assert off("cmapkd_full", IMAGES) == {"logits", "intra_l", "pyramid_align"}
    assert off("clip_kd", IMAGES) == {"logits"} and not off("rkd", IMAGES) and not off("fitnet", IMAGES)
    assert common_levels(Model("t", IMAGES), Model("s", WHOLE)) == IMAGE_LEVELS


@pytest.mark.parametrize(("teacher", "student"), [(FINAL_TEXTS, WHOLE), (WHOLE, FINAL_TEXTS)])
def test_a_text_tower_without_levels_takes_only_its_levels_away(teacher, student):
    assert off("cmapkd_full", teacher, student) == {"intra_l", "pyramid_align"}


def test_a_tokenizer_without_words_takes_only_l1_and_l2_away():
    assert (
        not off("cmapkd_full", NO_WORDS)
        and common_levels(Model("t", NO_WORDS), Model("s", WHOLE)) == LEVELS[:4] + LEVELS[6:]
    )


def test_levels_of_a_frozen_side_do_not_teach():
    assert off("cmapkd_full", WHOLE, frozen=("text",)) == {"intra_l", "pyramid_align"}
    assert off("mfd", WHOLE, frozen=("image",)) == {"mfd"}


@pytest.mark.parametrize("method", ["kd", "gd", "promptkd", "vl2lite", "c2kd", "mobileclip_dr", "tinyclip_affinity"])
def test_a_method_without_a_term_of_the_teacher_is_refused_in_one_line_with_methods_that_work(method):
    with pytest.raises(UsageError, match=r"teacher t has no text tower; use method: .*fd") as caught:
        available(METHODS[method], method, Model("teacher t", IMAGES), Model("student s", WHOLE))
    assert "\n" not in str(caught.value)


def test_a_method_without_a_teacher_stays_as_it_is():
    model = Model("student s", FINAL_TEXTS)
    assert available(METHODS["scratch"], "scratch", Model("teacher t", IMAGES), model) == (METHODS["scratch"], {})


def test_of_two_image_only_models_the_image_halves_are_left():
    assert off("cmapkd_full", IMAGES, IMAGES) == {"align", "logits", "icl", "intra_l", "pyramid_align"}
    assert off("rkd", IMAGES, IMAGES) == off("crd", IMAGES, IMAGES) == off("mfd", IMAGES, IMAGES) == {"align"}
    assert off("clip_kd", WHOLE, IMAGES) == {"align", "logits", "icl"}
    kept, _ = available(METHODS["fitnet"], "fitnet", Model("teacher t", IMAGES), Model("student s", IMAGES))
    assert set(kept.weights) == {"hint"}


@pytest.mark.parametrize("method", ["scratch", "kd", "icl", "fitnet_staged", "dcclip", "promptkd"])
def test_a_method_with_a_stage_of_no_term_is_refused_for_two_image_only_models(method):
    with pytest.raises(UsageError, match=r"cannot teach here: .*; use method: .*fd") as caught:
        available(METHODS[method], method, Model("teacher t", IMAGES), Model("student s", IMAGES))
    assert "\n" not in str(caught.value)
    assert not {"fitnet_staged", "dcclip", "icl"} & set(str(caught.value).rpartition("use method: ")[2].split(", "))
