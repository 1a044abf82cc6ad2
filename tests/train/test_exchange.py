"""Exchange between processes: the rows of all in the order of one process, and the gradient of one that has them all."""

import torch

from cmapkd.core.types import LogitScale, Pair
from cmapkd.distributed.collectives import average_, own_rows
from cmapkd.losses.both_kinds import align
from cmapkd.train.exchange import exchange
from distributed.together import together

ROWS, WIDTH, WORLD = 8, 3, 2


def whole() -> tuple[Pair[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = Pair(*(torch.randn(ROWS, WIDTH, generator=generator) for _ in range(2)))
    return rows, torch.randn(WIDTH, WIDTH, generator=generator)


def loss_of(pair: Pair[torch.Tensor], mine: LogitScale) -> torch.Tensor:
    return align(pair.image, pair.text, mine, torch.eye(len(pair.image), dtype=torch.bool))


def work() -> dict[str, torch.Tensor]:
    """Rows pass through a shared matrix, and the losses have parameters of their own: a temperature, and a sigmoid's bias."""
    rows, matrix = whole()
    matrix, scale = matrix.requires_grad_(), torch.tensor(5.0, requires_grad=True)
    bias = torch.tensor(-2.0, requires_grad=True)
    mine = rows.map(lambda part: own_rows(part) @ matrix)
    half, mask, empty = mine.image.detach().half(), own_rows(torch.arange(ROWS)) < 3, torch.empty(ROWS // WORLD, 0)
    mine, samples, mask, half, empty = exchange((mine, own_rows(torch.arange(ROWS)), mask, half, empty))
    loss = loss_of(mine, LogitScale(scale)) + loss_of(mine, LogitScale(scale, bias))
    loss.backward()
    average_([matrix.grad, scale.grad, bias.grad])
    return {"loss": loss.detach(), "matrix": matrix.grad, "scale": scale.grad, "bias": bias.grad, "samples": samples, "mask": mask,
            "half": half, "empty": empty}  # fmt: skip


def test_two_processes_give_the_loss_and_the_gradients_of_one(tmp_path):
    found, one = together(WORLD, work, tmp_path), work()
    for rank in found:
        assert rank["samples"].tolist() == list(range(ROWS)) and rank["mask"].tolist() == [True] * 3 + [False] * 5
        assert torch.equal(rank["half"], one["half"]) and rank["empty"].shape == (ROWS, 0)
        for name in ("loss", "matrix", "scale", "bias"):
            torch.testing.assert_close(rank[name], one[name])
    assert torch.equal(found[0]["matrix"], found[1]["matrix"])


def test_in_one_process_nothing_is_exchanged():
    pair, _ = whole()
    assert exchange(pair) is pair
