"""Caption metrics against naive loops for captions of every kind, and against pycocoevalcap where it is installed."""

from __future__ import annotations

import importlib.util
import math
import random
import shutil
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmapkd.core.errors import DataError
from cmapkd.tasks.captioning import clip_score
from cmapkd.tasks.captioning import java as caption_java
from cmapkd.tasks.captioning.metrics import bleu, caption_metrics, cider, longest_common, rouge_l
from cmapkd.tasks.captioning.tokens import tokens

INSTALLED = importlib.util.find_spec("pycocoevalcap") is not None
needs_reference = pytest.mark.skipif(not INSTALLED, reason="pycocoevalcap is not installed; pip install pycocoevalcap")
# (candidate, references) of every kind: perfect, half right, ties of length, duplicates, empty, garbage, unicode.
KINDS = {
    "perfect": ("a dog runs on grass", ["a dog runs on grass", "the dog plays"]),
    "partial": ("a dog sleeps on the red grass", ["a dog runs on grass", "the dog plays on the lawn"]),
    "duplicates": ("a a a a a", ["a man", "a man", "a a man"]),
    "tie of lengths": ("one two three", ["one two", "one two three four"]),
    "empty": ("", ["a cat sits"]),
    "garbage": ("zz qq xx ww vv", ["a cat sits", "a cat is there"]),
    "unicode": ("un café à 東京", ["un café à 東京 la nuit", "東京 東京"]),
    "one word": ("dog", ["dog"]),
    "long": (" ".join(["a dog and"] * 9), ["a dog and a cat"]),
    "empty reference": ("a", ["", "a b"]),
    "both empty": ("", [""]),
}
PARTS = list(KINDS.values())
CORPUS = ([c.split() for c, _ in PARTS], [[r.split() for r in rs] for _, rs in PARTS])
WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=7)
CORPORA = st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)), min_size=1, max_size=4)


def grams(words, n):
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def naive_bleu(candidates, references, order=4):
    length = sum(map(len, candidates))
    closest = sum(
        sorted((abs(len(r) - len(c)), len(r)) for r in rs)[0][1] for c, rs in zip(candidates, references, strict=True)
    )
    ratio = (length + 1e-15) / (closest + 1e-9)
    out, product = [], 1.0
    for n in range(1, order + 1):
        right = guessed = 0
        for c, rs in zip(candidates, references, strict=True):
            for gram in set(grams(c, n)):
                right += min(grams(c, n).count(gram), max(grams(r, n).count(gram) for r in rs))
            guessed += len(grams(c, n))
        product *= (right + 1e-15) / (guessed + 1e-9)
        out.append(product ** (1 / n) * (math.exp(1 - 1 / ratio) if ratio < 1 else 1))
    return out


def naive_common(a, b):
    """All subsequences of the shorter one, longest first."""
    a, b = sorted((a, b), key=len)
    for size in range(len(a), 0, -1):
        for kept in range(2 ** len(a)):
            if kept.bit_count() == size:
                rest = iter(b)
                if all(word in rest for k, word in enumerate(a) if kept >> k & 1):
                    return size
    return 0


def naive_cider(candidates, references):
    n_images, scores = len(references), []
    frequency = Counter()
    for rs in references:
        frequency.update({g for r in rs for n in range(1, 5) for g in grams(r, n)})
    for c, rs in zip(candidates, references, strict=True):
        score = 0.0
        for r in rs:
            for n in range(1, 5):
                weights = [
                    {g: x.count(g) * math.log(n_images / max(1, frequency[g])) for g in x}
                    for x in (grams(c, n), grams(r, n))
                ]
                norms = [math.sqrt(sum(v * v for v in w.values())) for w in weights]
                dot = sum(min(weights[0][g], weights[1].get(g, 0)) * weights[1].get(g, 0) for g in weights[0])
                gap = len(grams(c, 2)) - len(grams(r, 2))
                score += math.exp(-(gap**2) / 72) * (dot / norms[0] / norms[1] if all(norms) else 0)
        scores.append(10 * score / 4 / len(rs))
    return scores


@given(CORPORA)
@settings(max_examples=60, deadline=None)
def test_metrics_equal_naive_loops(corpus):
    candidates, references = [c for c, _ in corpus], [rs for _, rs in corpus]
    assert bleu(candidates, references)[0] == pytest.approx(naive_bleu(candidates, references), rel=1e-9)
    assert cider(candidates, references)[1] == pytest.approx(naive_cider(candidates, references), rel=1e-6, abs=1e-9)


@given(WORDS, WORDS)
@settings(max_examples=60, deadline=None)
def test_the_longest_common_subsequence_is_the_longest(a, b):
    assert longest_common(a, b) == naive_common(a, b)


def test_metrics_of_every_kind_of_caption_equal_naive_loops():
    assert bleu(*CORPUS)[0] == pytest.approx(naive_bleu(*CORPUS), rel=1e-9)
    assert cider(*CORPUS)[1] == pytest.approx(naive_cider(*CORPUS), rel=1e-6, abs=1e-9)
    for k, (candidate, truths) in enumerate(zip(*CORPUS, strict=True)):
        assert bleu([candidate], [truths])[0] == pytest.approx([each[k] for each in bleu(*CORPUS)[1]], rel=1e-9)


def test_perfect_captions_get_full_marks_and_hopeless_ones_none():
    truths = [["a red star above a tree"], ["two green rings beside the small house"]]
    perfect = caption_metrics([t[0] for t in truths], truths)
    assert [perfect[f"bleu_{n}"] for n in (1, 2, 3, 4)] == pytest.approx([1] * 4) and perfect[
        "rouge_l"
    ] == pytest.approx(1)
    assert perfect["cider"] == pytest.approx(10)
    for bad in ("", "!?.,", "zz qq xx ww vv"):
        assert max(caption_metrics([bad, bad], truths).values()) < 1e-6


def test_rouge_takes_the_best_precision_and_the_best_recall_of_any_reference():
    # precision 2/2 of the first, recall 1/1 of the second
    assert rouge_l([["a", "b"]], [[["a", "b", "c", "d"], ["a"]]])[0] == pytest.approx(1)
    assert rouge_l([["a", "x"]], [[["a", "b", "c", "d"]]])[0] == pytest.approx(2.44 * 0.5 * 0.25 / (0.25 + 1.44 * 0.5))


def test_the_closest_reference_length_is_the_shorter_of_two_as_close():
    assert bleu([["a", "b", "c"]], [[["a", "b"], ["a", "b", "c", "d"]]])[0][0] == pytest.approx(1)
    assert bleu([["a"]], [[["a", "b"]]])[0][0] == pytest.approx(math.exp(-1), rel=1e-6)


def test_captions_without_references_or_a_wrong_number_of_them_are_refused():
    for candidates, references, said in ((["a"], [[]], "without a reference"), ([], [], "no image"),
                                         (["a", "b"], [["a"]], "2 captions for 1")):  # fmt: skip
        with pytest.raises(DataError, match=said):
            caption_metrics(candidates, references)


@needs_reference
@pytest.mark.parametrize("seed", range(4))
def test_metrics_equal_pycocoevalcaps(seed):
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    rng = random.Random(seed)
    parts = PARTS + [
        (" ".join(rng.choices("abcdefgh", k=rng.randint(0, 12))),
         [" ".join(rng.choices("abcdefgh", k=rng.randint(1, 12))) for _ in range(rng.randint(1, 5))])
        for _ in range(40)
    ]  # fmt: skip
    parts = rng.sample(parts, len(parts) - 7 * seed)
    gts, res = {k: rs for k, (_, rs) in enumerate(parts)}, {k: [c] for k, (c, _) in enumerate(parts)}
    candidates, references = [c.split() for c, _ in parts], [[r.split() for r in rs] for _, rs in parts]
    for ours, scorer in ((bleu, Bleu(4)), (rouge_l, Rouge()), (cider, Cider())):
        theirs = scorer.compute_score(gts, res, verbose=0) if ours is bleu else scorer.compute_score(gts, res)
        got = ours(candidates, references)
        assert got[0] == pytest.approx(theirs[0], rel=1e-9, abs=1e-12)
        assert torch.tensor(got[1]).flatten().tolist() == pytest.approx(
            torch.tensor(theirs[1]).flatten().tolist(), abs=1e-6
        )


TREEBANK = {
    "A man's dog, don't!": "a man 's dog do n't", "A man's dog, don't run.": "a man 's dog do n't run",
    "cannot gonna wanna": "can not gon na wan na", "I'm he'd we'll they've": "i 'm he 'd we 'll they 've",
    "a (big) dog [red]": "a -lrb- big -rrb- dog -lsb- red -rsb-", "“curly” ‘quotes’ \"plain\"": "curly quotes plain",
    "Mr. Smith at St. Louis. Hello": "mr. smith at st. louis hello", "t-shirt red/blue 1,000 3.5 10:30 5pm": None,
    "dots... dash – em — x": "dots dash em x", "rock 'n' roll in the '90s": "rock 'n' roll in the '90s",
    "dogs' toys": "dogs toys", "what?! really!!": "what ?! really !!", "": "", " \n ": "", "50% of $5": "50 % of $ 5",
    "naïve café 東京 😀": "naïve café 東京", "a U.S. flag e.g. here": "a u.s. flag e.g. here", "o'clock": "o'clock",
    "tea..": "tea", "semi;colon co:lon": "semi colon co lon",
}  # fmt: skip


@pytest.mark.parametrize("text", TREEBANK)
def test_captions_are_cut_as_the_treebank_tokenizer_cuts_them(text):
    expected = TREEBANK[text]
    assert " ".join(tokens(text)) == (text if expected is None else expected)


@needs_reference
@pytest.mark.skipif(shutil.which("java") is None, reason="java is not on the path")
def test_captions_are_cut_as_java_cuts_them(tmp_path):
    """Through the jar itself: pycocoevalcap's wrapper writes into its own folder, which may be read-only."""
    import subprocess
    from pathlib import Path

    folder = Path(next(iter(importlib.util.find_spec("pycocoevalcap").submodule_search_locations)))
    texts = [text for text in TREEBANK if text.strip()]
    (tmp_path / "in.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    command = ["java", "-Dfile.encoding=UTF-8", "-cp", str(folder / "tokenizer" / "stanford-corenlp-3.4.1.jar"),
               "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", "in.txt"]  # fmt: skip
    out = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout.decode().split("\n")
    removed = {"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"}
    for text, line in zip(texts, out, strict=False):
        assert tokens(text) == [word for word in line.split() if word not in removed], text


def test_a_metric_that_cannot_be_run_has_a_reason_and_no_figure_and_is_not_announced(monkeypatch, capsys):
    monkeypatch.setattr(caption_java.shutil, "which", lambda name: None)
    figures, notes = caption_java.java_metrics(["a"], [["a"]])
    assert figures == {} and [note.split(":")[0] for note in notes] == ["meteor not run", "spice not run"]
    assert all("java is not on the path" in note for note in notes) and not capsys.readouterr().err


def test_spice_says_what_it_lacks(monkeypatch, tmp_path):
    monkeypatch.setattr(caption_java.shutil, "which", lambda name: "/bin/java")
    monkeypatch.delenv(caption_java.SPICE_HOME, raising=False)
    with pytest.raises(caption_java.NotRun, match="CMAPKD_SPICE_HOME is not set"):
        caption_java.spice(["a"], [["a"]])
    monkeypatch.setenv(caption_java.SPICE_HOME, str(tmp_path))
    with pytest.raises(caption_java.NotRun, match=r"spice-1.0.jar is missing"):
        caption_java.spice(["a"], [["a"]])


def script(tmp_path, name, body):
    path = tmp_path / name
    path.write_text(f"#!/usr/bin/env python3\nimport json, sys\n{body}")
    path.chmod(0o755)
    return str(path)


def test_spice_is_read_from_what_its_program_writes(monkeypatch, tmp_path):
    for name in ("spice-1.0.jar", "lib/stanford-corenlp-3.6.0.jar", "lib/stanford-corenlp-3.6.0-models.jar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setenv(caption_java.SPICE_HOME, str(tmp_path))
    body = (
        "rows = json.load(open(sys.argv[4]))\n"
        "assert [r['test'] for r in rows] == ['a b', 'c'] and rows[0]['refs'] == ['x y']\n"
        "json.dump([{'scores': {'All': {'f': 0.25 * k}}} for k, _ in enumerate(rows)], open(sys.argv[6], 'w'))\n"
    )
    java = script(tmp_path, "java", body)
    monkeypatch.setattr(caption_java.shutil, "which", lambda name: java)
    assert caption_java.spice(["a ||| b\n", "c"], [["x\ny"], ["z"]]) == pytest.approx(0.125)
    failing = script(tmp_path, "java2", "sys.exit('no room for a heap')")
    monkeypatch.setattr(caption_java.shutil, "which", lambda name: failing)
    with pytest.raises(caption_java.NotRun, match="no room for a heap"):
        caption_java.spice(["a"], [["a"]])


def test_meteor_speaks_its_programs_protocol_and_reports_its_progress_and_death(monkeypatch, tmp_path, capsys):
    (tmp_path / "meteor").mkdir()
    (tmp_path / "meteor" / "meteor-1.5.jar").touch()
    monkeypatch.setattr(caption_java, "_shipped", lambda: tmp_path)
    body = (
        "n = 0\n"
        "for line in sys.stdin:\n"
        "    parts = line.rstrip('\\n').split(' ||| ')\n"
        "    if parts[0] == 'SCORE':\n"
        "        n += 1\n"
        "        print(len(parts), flush=True)\n"
        "    else:\n"
        "        assert parts == ['EVAL', '4', '3'], parts\n"
        "        print('0.1\\n0.2\\n0.15', flush=True)\n"
    )
    java = script(tmp_path, "java", body)
    monkeypatch.setattr(caption_java.shutil, "which", lambda name: java)
    assert caption_java.meteor(["a ||| b", "c\nd"], [["x", "y"], ["z"]]) == pytest.approx(0.15)
    started, *told = capsys.readouterr().err.splitlines()  # before the first answer, while Java is starting
    assert started.startswith("METEOR: 2 captions; ") and told[-1].startswith("METEOR 2/2")
    failing = script(tmp_path, "java2", "sys.exit('no class')")
    monkeypatch.setattr(caption_java.shutil, "which", lambda name: failing)
    with pytest.raises(caption_java.NotRun, match="no class"):
        caption_java.meteor(["a"], [["a"]])


@needs_reference
@pytest.mark.skipif(shutil.which("java") is None, reason="java is not on the path")
@pytest.mark.slow
def test_meteor_equals_pycocoevalcaps_and_prefers_the_better_caption():
    from pycocoevalcap.meteor.meteor import Meteor

    truths = [["a brown dog runs over the grass", "a dog is running"], ["a man rides a horse", "someone on a horse"]]
    good = ["a brown dog is running on grass", "a man on a horse"]
    expected = Meteor().compute_score(dict(enumerate(truths)), {k: [text] for k, text in enumerate(good)})[0]
    assert caption_java.meteor(good, truths) == pytest.approx(expected)
    assert 0 <= caption_java.meteor(["a plate of food", "東京 ||| \n"], truths) < expected / 2


class Letters:
    """An encoder of pictures and texts that are one-hot by their first pixel, or by the word behind the prompt."""

    image_size = 2

    def encode_images(self, images):
        return torch.eye(4)[images[:, 0, 0, 0].long()]

    def encode_texts(self, texts):
        assert all(text.startswith("A photo depicts ") for text in texts)
        rows = [sum(torch.eye(4)["abcd".index(word)] for word in text.split()[3:]) for text in texts]
        return torch.nn.functional.normalize(torch.stack(rows), dim=-1)


def test_clip_scores_follow_their_equations():
    pixels = torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(3, 3, 2, 2)
    got = clip_score.clip_scores(
        Letters(), ["a", "b d", "d"], [["c", "a"], ["b", "a"], ["c"]], lambda span: pixels[list(span)], batch=2
    )
    half = math.sqrt(0.5)
    assert got["clip_score"] == pytest.approx(2.5 * (1 + half + 0) / 3)
    harmonic = [2 * 2.5 * 1 / 3.5, 2 * (2.5 * half) * half / (3.5 * half), 0]
    assert got["ref_clip_score"] == pytest.approx(sum(harmonic) / 3)


def test_an_opposite_caption_scores_nothing_and_not_less():
    v = torch.tensor([[1.0, 0.0]])
    assert clip_score.clip_score(v, -v).tolist() == [0]
    assert clip_score.ref_clip_score(v, -v, torch.tensor([-1.0])).tolist() == [0]
