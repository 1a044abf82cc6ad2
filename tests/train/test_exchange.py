"""Exchange between processes: the rows of all in the order of ranks, and the gradient of one process that has them all."""

import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cmapkd.core.types import Pair
from cmapkd.losses.contrastive import align
from cmapkd.train.exchange import exchange

ROWS, WIDTH = 4, 3


def embeddings(rank: int) -> Pair[torch.Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return Pair(*(torch.randn(ROWS, WIDTH, generator=generator) for _ in range(2)))


def loss_of(pair: Pair[torch.Tensor]) -> torch.Tensor:
    return align(pair.image, pair.text, 5.0, torch.eye(len(pair.image), dtype=torch.bool))


def worker(rank: int, port: int, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    mine = embeddings(rank).map(lambda rows: rows.requires_grad_())
    gathered, samples, mask = exchange((mine, torch.arange(ROWS) + ROWS * rank, torch.tensor([rank == 0] * ROWS)))
    loss = loss_of(gathered) / dist.get_world_size()  # each process counts its share of the one loss
    loss.backward()
    found = {
        "image": mine.image.grad,
        "text": mine.text.grad,
        "samples": samples,
        "mask": mask,
        "loss": 2 * loss.detach(),
    }
    torch.save(found, f"{out}-{rank}")
    dist.destroy_process_group()


def test_two_processes_give_the_loss_and_the_gradients_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, (port, str(tmp_path / "found")), nprocs=2)
    found = [torch.load(tmp_path / f"found-{rank}", weights_only=True) for rank in range(2)]
    whole = Pair(*(torch.cat([getattr(embeddings(rank), side) for rank in range(2)]) for side in ("image", "text")))
    whole = whole.map(lambda rows: rows.requires_grad_())
    loss = loss_of(whole)
    loss.backward()
    for one in found:
        torch.testing.assert_close(one["loss"], loss.detach())
        assert one["samples"].tolist() == list(range(2 * ROWS))
        assert one["mask"].tolist() == [True] * ROWS + [False] * ROWS
    torch.testing.assert_close(torch.cat([one["image"] for one in found]), whole.image.grad)
    torch.testing.assert_close(torch.cat([one["text"] for one in found]), whole.text.grad)


def test_in_one_process_nothing_is_exchanged():
    pair = embeddings(0)
    assert exchange(pair) is pair
