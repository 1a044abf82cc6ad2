"""The VQA accuracy as the challenge counts it, with every quirk of its normalisation.

Antol et al. 2015 (arXiv:1505.00468), Goyal et al. 2017 (arXiv:1612.00837); the rules are those of the official program
for VQA v2, whose effects are kept and whose reasons are said beside them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from cmapkd.core.errors import DataError
from cmapkd.data.questions import Questions

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
BETWEEN_DIGITS = re.compile(r"\d,\d")
# The official pattern was meant to keep decimal points by a look-behind, but its `?!<=` is a look-ahead that always
# holds: a period goes unless a digit follows. re.UNICODE, passed as a count, bounds the removals at 32.
PERIOD = re.compile(r"\.(?!\d)")
MOST_PERIODS = int(re.UNICODE)
ARTICLES = frozenset(("a", "an", "the"))
NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
# Each is also what its spellings with one apostrophe left out become; those with a capital I can never be met, since
# words are lower-cased before.
CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's I'd've I'm I've isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
    needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
    would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    word[:at] + word[at + 1 :]: word for word in CONTRACTED.split() for at, letter in enumerate(word) if letter == "'"
} | {"somebody'd": "somebodyd"}  # the official table has this one the wrong way round


@dataclass(frozen=True)
class Accuracy:
    """Shares in [0, 1] over `count` questions. lenient: as `overall`, normalised for unanimous questions too."""

    overall: float
    lenient: float
    by_answer_type: dict[str, float]
    by_question_type: dict[str, float]
    count: int

    @property
    def metrics(self) -> dict[str, float]:
        """accuracy, lenient, then `answer/TYPE` and `question/TYPE` in alphabetical order."""
        return {
            "accuracy": self.overall,
            "lenient": self.lenient,
            **{f"answer/{kind}": self.by_answer_type[kind] for kind in sorted(self.by_answer_type)},
            **{f"question/{kind}": self.by_question_type[kind] for kind in sorted(self.by_question_type)},
        }


@lru_cache(maxsize=1 << 18)
def normalise(answer: str) -> str:
    """`The T-shirt.` → `t shirt`: punctuation, periods, case, number words, articles, contractions, in this order."""
    answer = text = strip(answer)
    numeric = BETWEEN_DIGITS.search(answer) is not None
    for mark in PUNCTUATION:
        loose = numeric or f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if loose else " ")
    words = PERIOD.sub("", text, count=MOST_PERIODS).lower().split()
    digits = [NUMBERS.get(word, word) for word in words]
    return " ".join(CONTRACTIONS.get(word, word) for word in digits if word not in ARTICLES)


def strip(answer: str) -> str:
    """The first step of normalisation, applied to every answer."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def answer_accuracy(answer: str, truths: Sequence[str], lenient: bool = False) -> float:
    """Mean over the truths, each left out once, of min(matches among the others / 3, 1).

    Answers are normalised only where the truths differ; `lenient` normalises always.
    """
    truths = [strip(truth) for truth in truths]
    same, wanted = _judged(answer, truths, lenient)
    matches = sum(truth == wanted for truth in same)
    return _left_out(matches, len(truths))


def earned(truths: Sequence[str]) -> dict[str, float]:
    """Official accuracy of every answer that earns something; where the truths differ, in normalised form."""
    truths = [strip(truth) for truth in truths]
    forms, _ = _judged("", truths, lenient=False)
    shares = {form: _left_out(count, len(truths)) for form, count in Counter(forms).items()}
    return {form: share for form, share in shares.items() if share}


def vqa_accuracy(predicted: Mapping[int, str], questions: Questions) -> Accuracy:
    """Score one answer per question. Raises DataError unless exactly the questions of the set are answered."""
    check_ids(predicted, questions.ids, questions.name)
    if not questions.ids:
        raise DataError(f"{questions.name}: no question to score")
    official: list[float] = []
    lenient: list[float] = []
    for key, truths in zip(questions.ids, questions.answers, strict=True):
        if not truths:
            raise DataError(f"{questions.name}: question {key} has no answers; a test split can only be answered")
        official.append(answer_accuracy(predicted[key], truths))
        lenient.append(answer_accuracy(predicted[key], truths, lenient=True))
    return Accuracy(
        _mean(official),
        _mean(lenient),
        _grouped(official, questions.answer_types),
        _grouped(official, questions.question_types),
        len(official),
    )


def check_ids(found: Iterable[int], ids: Iterable[int], name: str) -> None:
    """Raise DataError, in one line, unless `found` are the questions `ids`, each once."""
    wanted = list(ids)
    if len(set(wanted)) < len(wanted):
        twice = [key for key, count in Counter(wanted).items() if count > 1]
        raise DataError(f"{name}: {some_questions(twice)} stand more than once among the questions")
    unknown, missing = sorted(set(found) - set(wanted)), sorted(set(wanted) - set(found))
    problems = [
        f"{some_questions(keys)} {what}"
        for keys, what in ((unknown, "not among the questions"), (missing, "not answered"))
        if keys
    ]
    if problems:
        raise DataError(f"{name}: {'; '.join(problems)}; answer exactly the {len(wanted)} questions of the split")


def _judged(answer: str, truths: Sequence[str], lenient: bool) -> tuple[list[str], str]:
    """(truths, answer) in the forms that are compared."""
    if lenient or len(set(truths)) > 1:
        return [normalise(truth) for truth in truths], normalise(answer)
    return list(truths), strip(answer)


def _left_out(matches: int, total: int) -> float:
    """`matches` truths have one match less among the others, the rest have all."""
    return (matches * min((matches - 1) / 3, 1) + (total - matches) * min(matches / 3, 1)) / total if matches else 0.0


def _grouped(scores: Sequence[float], kinds: Sequence[str]) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for score, kind in zip(scores, kinds, strict=True):
        groups.setdefault(kind, []).append(score)
    return {kind: _mean(group) for kind, group in groups.items()}


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)


def some_questions(keys: Sequence[int]) -> str:
    """The number of questions and the first three ids."""
    shown = ", ".join(str(key) for key in keys[:3])
    return f"{len(keys)} question{'s' * (len(keys) != 1)} ({shown}{', …' * (len(keys) > 3)})"
