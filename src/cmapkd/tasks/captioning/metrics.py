"""BLEU, ROUGE-L and CIDEr of captions against several references each, figure for figure as pycocoevalcap has them.

All take token lists, one candidate and its references an image, and give (corpus figure, figure of each image).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from cmapkd.core.errors import DataError
from cmapkd.tasks.captioning.tokens import tokens

Tokens = Sequence[str]
Gram = tuple[str, ...]
ORDER = 4
# pycocoevalcap's guards against a division by zero: a candidate without a single match gets almost, not quite, 0.
SMALL, TINY = 1e-9, 1e-15
BETA = 1.2  # ROUGE-L's weight of recall
SIGMA = 6.0  # CIDEr-D's tolerance of length differences, in bigrams


def caption_metrics(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """bleu_1..bleu_4, rouge_l and cider of plain texts; CIDEr is not a share, it ends at 10."""
    hypotheses = [tokens(caption) for caption in candidates]
    truths = [[tokens(caption) for caption in captions] for captions in references]
    _require_references(hypotheses, truths)
    bleus, _ = bleu(hypotheses, truths)
    return {
        **{f"bleu_{n}": value for n, value in enumerate(bleus, start=1)},
        "rouge_l": rouge_l(hypotheses, truths)[0],
        "cider": cider(hypotheses, truths)[0],
    }


def bleu(
    candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]], order: int = ORDER
) -> tuple[list[float], list[list[float]]]:
    """BLEU-1..order of the corpus, and of each image per order (Papineni et al. 2002).

    BLEU-n = BP · (Π_k p_k)^(1/n), p_k the clipped precision of k-grams, BP = min(1, e^(1 − r/c)), r the sum over images
    of the reference length closest to the candidate's, the shorter of two.
    """
    total = _Matches(0, 0, [0] * order, [0] * order)
    each: list[list[float]] = [[] for _ in range(order)]
    for candidate, truths in zip(candidates, references, strict=True):
        found = _matches(candidate, truths, order)
        total = total + found
        for n, value in enumerate(found.bleu()):
            each[n].append(value)
    return total.bleu(), each


def rouge_l(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> tuple[float, list[float]]:
    """Mean over images of the F-measure of the longest common subsequence (Lin 2004).

    F = (1 + β²)·P·R / (R + β²·P), P and R each the best over the references, which may be two different ones; β = 1.2.
    """
    each = []
    for candidate, truths in zip(candidates, references, strict=True):
        common = [longest_common(candidate, truth) for truth in truths]
        # As the reference has it, an empty text counts as one empty token.
        precision = max(common) / max(len(candidate), 1)
        recall = max(length / max(len(truth), 1) for length, truth in zip(common, truths, strict=True))
        if not candidate and any(not truth for truth in truths):
            precision = recall = 1.0
        each.append(
            (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if precision and recall else 0.0
        )
    return sum(each) / len(each), each


def cider(
    candidates: Sequence[Tokens],
    references: Sequence[Sequence[Tokens]],
    order: int = ORDER,
    sigma: float = SIGMA,
) -> tuple[float, list[float]]:
    """CIDEr-D (Vedantam et al. 2015, arXiv:1411.5726): ten times the mean over references and n of

        e^(−(l_c − l_r)² / 2σ²) · Σ_ω min(g_c, g_r)·g_r / (‖g_c‖·‖g_r‖),  g(ω) = count(ω) · (log N − log max(1, df(ω))).

    df: number of images with ω in a reference, N: number of images; so the figure is of this set of images only, and 0
    for a single one. l: number of bigrams, which is what the reference counts as length.
    """
    documents = [[_grams(truth, order) for truth in truths] for truths in references]
    frequency = Counter(gram for truths in documents for gram in set().union(*truths))
    log_images = math.log(len(documents))
    weigh = {gram: log_images - math.log(count) for gram, count in frequency.items()}
    each = []
    for candidate, truths in zip(candidates, documents, strict=True):
        ours = _vector(_grams(candidate, order), weigh, log_images, order)
        likeness = 0.0
        for truth in truths:
            theirs = _vector(truth, weigh, log_images, order)
            likeness += _cosines(ours, theirs) * math.exp(-((ours.length - theirs.length) ** 2) / (2 * sigma**2))
        each.append(10 * likeness / order / len(truths))
    return sum(each) / len(each), each


def longest_common(a: Tokens, b: Tokens) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


class _Matches:
    """Lengths and clipped n-gram counts of one image, or of several added up."""

    def __init__(self, length: int, reference: int, guess: list[int], correct: list[int]) -> None:
        self.length, self.reference, self.guess, self.correct = length, reference, guess, correct

    def __add__(self, other: _Matches) -> _Matches:
        return _Matches(
            self.length + other.length,
            self.reference + other.reference,
            [a + b for a, b in zip(self.guess, other.guess, strict=True)],
            [a + b for a, b in zip(self.correct, other.correct, strict=True)],
        )

    def bleu(self) -> list[float]:
        ratio = (self.length + TINY) / (self.reference + SMALL)
        brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
        out, product = [], 1.0
        for n, (correct, guess) in enumerate(zip(self.correct, self.guess, strict=True), start=1):
            product *= (correct + TINY) / (guess + SMALL)
            out.append(product ** (1 / n) * brevity)
        return out


class _Vector:
    """TF-IDF weights by n-gram length, their norms, and the number of bigrams."""

    def __init__(self, weights: list[dict[Gram, float]], length: int) -> None:
        self.weights, self.length = weights, length
        self.norms = [math.sqrt(sum(w * w for w in each.values())) for each in weights]


def _matches(candidate: Tokens, truths: Sequence[Tokens], order: int) -> _Matches:
    counts = _grams(candidate, order)
    most: Counter[Gram] = Counter()
    for truth in truths:
        most |= _grams(truth, order)
    correct = [0] * order
    for gram, count in counts.items():
        correct[len(gram) - 1] += min(most[gram], count)
    closest = min((abs(len(truth) - len(candidate)), len(truth)) for truth in truths)[1]
    guess = [max(0, len(candidate) - n) for n in range(order)]
    return _Matches(len(candidate), closest, guess, correct)


def _vector(counts: Counter[Gram], weigh: dict[Gram, float], unseen: float, order: int) -> _Vector:
    weights: list[dict[Gram, float]] = [{} for _ in range(order)]
    for gram, count in counts.items():
        weights[len(gram) - 1][gram] = count * weigh.get(gram, unseen)
    return _Vector(weights, sum(count for gram, count in counts.items() if len(gram) == 2))


def _cosines(a: _Vector, b: _Vector) -> float:
    total = 0.0
    for ours, theirs, norm in zip(
        a.weights, b.weights, (x * y for x, y in zip(a.norms, b.norms, strict=True)), strict=True
    ):
        if norm:
            total += sum(min(w, theirs[gram]) * theirs[gram] for gram, w in ours.items() if gram in theirs) / norm
    return total


def _grams(words: Tokens, order: int) -> Counter[Gram]:
    return Counter(tuple(words[i : i + n]) for n in range(1, order + 1) for i in range(len(words) - n + 1))


def _require_references(candidates: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> None:
    if not candidates:
        raise DataError("captioning: no image to score")
    if len(candidates) != len(references):
        raise DataError(f"captioning: {len(candidates)} captions for {len(references)} images; give one an image")
    if bare := sum(not truths for truths in references):
        raise DataError(f"captioning: {bare} images without a reference caption; score a split that has captions")
