"""The captioner: lexicon and padding, causality, the searches against exhaustive ones, texts read back."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import cmapkd
import toy
from cmapkd.core.errors import UsageError
from cmapkd.tasks.captioning.decoder import (
    END,
    IGNORED,
    PAD,
    START,
    Captioner,
    Lexicon,
    build_lexicon,
    caption_cross_entropy,
    framed,
    teacher_forcing,
    text_decoder,
    tidy,
)
from cmapkd.tasks.captioning.search import beam_search, next_log_probabilities
from cmapkd.towers.tokens.by_word import WordTokenizer
from cmapkd.towers.tokens.tokenizer import Tokenizer, from_folder, from_hugging_face, from_open_clip
from towers.tokens.toy_tokenizers import KINDS

TEACHER = Path(cmapkd.__file__).parent / "assets" / "scenes-teacher"  # its tokenizer.json names no decoder


@torch.no_grad()
def greedy_search(model: Captioner, visual: torch.Tensor) -> torch.Tensor:
    """The most probable token at every step, without key/value caches: a reference for the beam search."""
    memory = model.memory(visual)
    tokens = torch.full((len(visual), 1), START, device=visual.device)
    done = torch.zeros(len(visual), dtype=torch.bool, device=visual.device)
    while tokens.shape[1] < model.longest and not bool(done.all()):
        best = next_log_probabilities(model.decode(memory, tokens)[:, -1], done).argmax(1)
        tokens = torch.cat([tokens, best[:, None]], dim=1)
        done = done | (best == END)
    return tokens


@torch.no_grad()
def log_probability(model: Captioner, visual: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Σ log p of the tokens behind START by teacher forcing, padding left out."""
    inputs, labels = teacher_forcing(tokens)
    each = model(visual, inputs).float().log_softmax(-1).gather(2, labels.clamp_min(0)[..., None])[..., 0]
    return each.masked_fill(labels == IGNORED, 0.0).sum(1)


def model(words=3, longest=5, seed=0, spread=3.0) -> Captioner:
    """An untrained captioner whose embeddings are spread, so that its captions are of many lengths."""
    torch.manual_seed(seed)
    out = Captioner(
        6, Lexicon(torch.arange(10, 10 + words), 99), longest, width=16, depth=2, heads=2, dropout=0.3
    ).eval()
    with torch.no_grad():
        out.token.weight.mul_(spread)
    return out


def letters() -> Tokenizer:
    """One token a letter; padding is id 0, which is also the letter `!`, as in CLIP."""
    return WordTokenizer(lambda w: [0 if c == "!" else ord(c) for c in w], str, str.lower, 998, 999, 0, 8)


def test_padding_is_known_by_its_place_and_not_by_its_id():
    ids = letters()(["a!b", "c", ""])[0]
    lexicon = build_lexicon(ids, letters())
    assert lexicon.known.tolist() == [0, ord("a"), ord("b"), ord("c")] and lexicon.size == 7
    rows = lexicon.compact(ids)
    assert rows.tolist()[0] == [START, 4, 3, 5, END, PAD, PAD, PAD]
    assert rows.tolist()[1:] == [[START, 6, END, *[PAD] * 5], [START, END, *[PAD] * 6]]
    assert lexicon.expand(rows[0].tolist()) == [ord("a"), 0, ord("b")]


def test_tokens_that_training_never_saw_are_ignored():
    lexicon = build_lexicon(letters()(["ab"])[0], letters())
    assert lexicon.compact(letters()(["axb"])[0])[0, :5].tolist() == [START, 3, PAD, 4, END]
    nothing = build_lexicon(letters()([""])[0], letters())
    assert nothing.size == 3 and nothing.compact(letters()(["a"])[0])[0, :3].tolist() == [START, PAD, END]


def test_each_label_is_the_next_token_and_padding_has_none():
    inputs, labels = teacher_forcing(torch.tensor([[START, 5, 6, END], [START, 7, END, PAD]]))
    assert inputs.tolist() == [[START, 5, 6], [START, 7, END]]
    assert labels.tolist() == [[5, 6, END], [7, END, IGNORED]]


def test_the_loss_is_the_mean_negative_log_likelihood_of_real_labels():
    logits, labels = torch.randn(2, 3, 4), torch.tensor([[1, 2, 3], [0, IGNORED, IGNORED]])
    each = [
        -math.log(math.exp(logits[b, k, y]) / sum(math.exp(v) for v in logits[b, k]))
        for b in range(2) for k, y in enumerate(labels[b].tolist()) if y != IGNORED
    ]  # fmt: skip
    assert float(caption_cross_entropy(logits, labels)) == pytest.approx(sum(each) / 4, rel=1e-5)
    smoothed = [
        0.9 * nll + 0.1 * float(-logits[b, k].log_softmax(-1).mean())
        for nll, (b, k) in zip(each, [(0, 0), (0, 1), (0, 2), (1, 0)], strict=True)
    ]
    assert float(caption_cross_entropy(logits, labels, 0.1)) == pytest.approx(sum(smoothed) / 4, rel=1e-5)


def test_a_word_sees_what_stands_before_it_and_nothing_behind():
    net, visual = model(), torch.randn(2, 4, 6)
    tokens = torch.tensor([[START, 3, 4, 5], [START, 5, 4, 3]])
    other = tokens.clone()
    other[:, 2:] = 3
    before, after = net(visual, tokens), net(visual, other)
    assert torch.allclose(before[:, :2], after[:, :2], atol=1e-6) and not torch.allclose(before[:, 2:], after[:, 2:])
    assert not torch.allclose(net(visual.flip(0), tokens), before)


def test_a_caption_grown_word_by_word_has_the_logits_of_the_whole():
    net, visual = model(), torch.randn(2, 4, 6)
    tokens = torch.tensor([[START, 3, 4, 5], [START, 5, 4, 3]])
    memory, past, found = net.memory(visual), None, []
    for word in tokens.unbind(1):
        logits, past = net.grow(memory, past, word)
        found.append(logits)
    assert torch.allclose(torch.stack(found, 1), net(visual, tokens), atol=1e-5)


def test_a_search_reads_each_word_once():
    """Doubling the longest caption doubles the arithmetic; reading all words anew at each step would quadruple it."""
    counts = []
    for longest in (17, 33):
        net, visual = model(words=40, longest=longest), torch.randn(2, 4, 6)
        net.token.weight.data[END] = -net.token.weight.data.sum(0)  # an end that hardly comes
        with FlopCounterMode(display=False) as counter:
            rows = beam_search(net, visual, 3).tokens
        assert rows.shape[2] == longest
        counts.append(counter.get_total_flops())
    assert counts[1] < 2.5 * counts[0]


def test_every_parameter_gets_a_gradient_and_captions_are_learnt():
    net, visual = model(longest=6, spread=1.0).train(), torch.randn(4, 3, 6)
    net.dropout.p = 0.0
    tokens = torch.tensor(
        [[START, 3, 4, END, PAD], [START, 5, END, PAD, PAD], [START, 4, 3, 5, END], [START, 3, 3, 3, END]]
    )
    inputs, labels = teacher_forcing(tokens)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        caption_cross_entropy(net(visual, inputs), labels).backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    net.eval()
    assert torch.equal(greedy_search(net, visual), tokens)
    assert torch.equal(beam_search(net, visual, 3).tokens[:, 0, :5], tokens)


@pytest.mark.parametrize("seed", range(6))
def test_one_beam_is_the_greedy_search(seed):
    net = model(words=6, longest=9, seed=seed)
    visual = torch.randn(16, 4, 6)
    assert torch.equal(beam_search(net, visual, 1).tokens[:, 0], greedy_search(net, visual))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("beams", [1, 2, 5])
def test_the_scores_of_beams_are_their_log_probabilities_by_teacher_forcing(seed, beams):
    net = model(words=6, longest=7, seed=seed)
    visual = torch.randn(5, 4, 6)
    found = beam_search(net, visual, beams, penalty=0.7)
    for k in range(beams):
        rows = found.tokens[:, k]
        assert torch.allclose(log_probability(net, visual, rows), found.log_probability[:, k], atol=1e-4)
        length = (rows[:, 1:] != PAD).sum(1)
        assert torch.allclose(found.score[:, k], found.log_probability[:, k] / length**0.7, atol=1e-5)
    assert (found.score.diff(dim=1) <= 0).all()
    assert len({tuple(row) for row in found.tokens[0].tolist()}) == beams
    closed = (found.tokens == END).int().cumsum(2) - (found.tokens == END).int() > 0
    assert torch.equal(found.tokens == PAD, closed)  # padding stands behind the end, and nothing else does


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0])
def test_a_beam_that_holds_everything_finds_the_best_caption_there_is(penalty, seed):
    net, longest = model(words=2, longest=4, seed=seed, spread=1.0), 4
    visual = torch.randn(3, 4, 6)
    every = []
    for n in range(longest):
        every += [(*body, END) for body in itertools.product((3, 4), repeat=n) if n < longest - 1]
    every += list(itertools.product((3, 4), repeat=longest - 1))  # still open at the longest length
    rows = torch.tensor([[START, *body, *[PAD] * (longest - 1 - len(body))] for body in every])
    found = beam_search(net, visual, len(every), penalty)
    for image in range(3):
        sums = log_probability(net, visual[image : image + 1].expand(len(rows), -1, -1), rows)
        scores = sums / torch.tensor([len(body) for body in every]) ** penalty
        assert torch.allclose(found.score[image], scores.sort(descending=True).values, atol=1e-4)
        assert torch.equal(found.tokens[image, 0], rows[scores.argmax()])


def test_a_caption_does_not_depend_on_the_others_of_its_batch():
    net, visual = model(words=6, longest=9, seed=1), torch.randn(6, 4, 6)
    alone = [beam_search(net, visual[k : k + 1], 3).tokens[0, 0] for k in range(6)]
    for one, row in zip(alone, beam_search(net, visual, 3).tokens[:, 0], strict=True):
        assert torch.equal(one, row[: len(one)]) and (row[len(one) :] == PAD).all()


def test_more_beams_never_find_a_worse_sum_than_all_of_them():
    net, visual = model(words=2, longest=4, seed=2), torch.randn(8, 4, 6)
    best = beam_search(net, visual, 15, penalty=0.0).log_probability[:, 0]
    for beams in (1, 2, 3):
        assert (beam_search(net, visual, beams, penalty=0.0).log_probability[:, 0] <= best + 1e-5).all()


def test_texts_of_a_folders_tokenizer_are_read_back(tmp_path):
    words = toy.tokenizer(tmp_path)
    ids = words(toy.CAPTIONS)[0]
    lexicon, decode = build_lexicon(ids, words), text_decoder(words)
    assert [decode(lexicon.expand(row)) for row in lexicon.compact(ids).tolist()] == toy.CAPTIONS


def test_texts_of_a_tokenizer_that_marks_the_ends_of_words_are_read_back():
    words = from_folder(TEACHER, 32)
    texts = ["a small dotted red heart above a large purple heart.", "two rings, one circle"]
    decode = text_decoder(words)
    back = [decode(words.pieces(text)) for text in texts]
    assert back == texts


def test_texts_of_clips_own_tokenizer_are_read_back():
    from open_clip.tokenizer import SimpleTokenizer

    words = from_open_clip(SimpleTokenizer(), 77)
    texts = ["a man's dog doesn't run, ever!", "naïve café 東京 😀 t-shirt", "!!!", ""]
    ids = words(texts)[0]
    lexicon, decode = build_lexicon(ids, words), text_decoder(words)
    back = [decode(lexicon.expand(row)) for row in lexicon.compact(ids).tolist()]
    assert torch.equal(words(back)[0], ids) and back[0] == texts[0] and back[2] == "!!!"


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_any_fast_tokenizer_are_read_back_also_without_a_start_or_an_end_token(tmp_path, kind):
    words = from_hugging_face(KINDS[kind](tmp_path), 40)
    texts = ["a small dog, wearing 2 red collars", "two children play football in the park!"]
    for ids in (words(texts)[0], words(texts)[0].masked_fill(words(texts)[0] == words.end, words.pad)):
        rows = framed(ids, words)
        lexicon, decode = build_lexicon(rows, words), text_decoder(words)
        assert [decode(lexicon.expand(row)) for row in lexicon.compact(rows).tolist()] == texts
        words.end = -1  # a tokenizer that puts none behind a text


def test_a_tokenizer_that_cannot_be_read_back_is_refused():
    with pytest.raises(UsageError, match="cannot be read back"):
        text_decoder(letters())
    with pytest.raises(UsageError, match="multiple of its 4 heads"):
        Captioner(6, Lexicon(torch.arange(3), 9), 5, width=18)
    with pytest.raises(UsageError, match="at least one"):
        beam_search(model(), torch.randn(1, 2, 6), 0)


def test_marks_and_clitics_lean_on_the_word_before():
    assert tidy("a dog 's ball , is n't it ?\n") == "a dog's ball, is n't it?"
