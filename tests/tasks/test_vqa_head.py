"""VQA heads: vocabulary and soft targets, the loss by its equation, gradients, masks, learning."""

from __future__ import annotations

import math

import pytest
import torch

from cmapkd.tasks.vqa.head import CoAttentionHead, FusionHead, Vocabulary, build_vocabulary, pool, soft_bce


def heads():
    torch.manual_seed(0)
    return {
        "fusion": (FusionHead(6, 5, 16, 0.0), (torch.randn(8, 6), torch.randn(8, 6))),
        "coattention": (
            CoAttentionHead(6, 7, 5, 16, depth=2, heads=2, dropout=0.0),
            (torch.randn(8, 4, 6), torch.randn(8, 3, 7), torch.ones(8, 3, dtype=torch.bool)),
        ),
    }


def test_the_vocabulary_holds_what_earns_most_and_breaks_ties_by_the_alphabet():
    earned = [{"b": 1.0}, {"a": 0.9, "c": 0.3}, {"a": 0.1}, {"d": 0.2}]
    assert build_vocabulary(earned, 3).answers == ("a", "b", "c")
    assert build_vocabulary(earned[::-1], 9).answers == ("a", "b", "c", "d")


def test_soft_targets_are_what_is_earned_and_unknown_answers_leave_no_trace():
    targets = Vocabulary(("yes", "no")).targets([{"yes": 0.9, "maybe": 0.3}, {}])
    assert torch.equal(targets, torch.tensor([[0.9, 0.0], [0.0, 0.0]]))


def test_the_loss_is_the_sum_over_answers_of_binary_cross_entropies():
    logits, targets = torch.tensor([[0.5, -2.0], [3.0, 0.0]]), torch.tensor([[0.6, 0.0], [1.0, 0.3]])
    expected = 0.0
    for row, wanted in zip(logits.tolist(), targets.tolist(), strict=True):
        for x, t in zip(row, wanted, strict=True):
            p = 1 / (1 + math.exp(-x))
            expected -= (t * math.log(p) + (1 - t) * math.log(1 - p)) / 2
    assert float(soft_bce(logits, targets)) == pytest.approx(expected, rel=1e-6)
    assert torch.autograd.gradcheck(lambda x: soft_bce(x, targets.double()), logits.double().requires_grad_())


@pytest.mark.parametrize("name", ["fusion", "coattention"])
def test_every_parameter_gets_a_gradient_and_a_batch_is_learnt(name):
    head, inputs = heads()[name]
    targets = torch.eye(5)[torch.arange(8) % 5]
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        soft_bce(head(*inputs), targets).backward()
        optimizer.step()
    # The visual stream's last reading is used, so is the words': nothing in the head is idle.
    idle = [n for n, p in head.named_parameters() if p.grad is None]
    assert not idle
    assert (head(*inputs).argmax(1) == targets.argmax(1)).all()


@pytest.mark.parametrize("name", ["fusion", "coattention"])
def test_image_and_question_both_change_the_answer(name):
    head, inputs = heads()[name]
    before = head(*inputs)
    for k in (0, 1):
        changed = [x.flip(0) if j == k else x for j, x in enumerate(inputs)]
        assert not torch.allclose(head(*changed), before)


def test_words_behind_the_mask_are_not_read():
    head, (image, words, mask) = heads()["coattention"]
    mask[:, 2] = False
    before = head(image, words, mask)
    words[:, 2] = 1e3 * torch.randn(8, 7)
    assert torch.allclose(head(image, words, mask), before, atol=1e-6)


def test_the_pool_of_one_real_token_is_that_token():
    tokens, weight = torch.randn(2, 3, 4), torch.randn(2, 3, 1)
    mask = torch.tensor([[False, True, False]] * 2)
    assert torch.allclose(pool(tokens, weight, mask), tokens[:, 1])
