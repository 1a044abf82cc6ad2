"""Simulation of training on 1 to 512 ranks and up to 100 M pairs: `python -m benchmarks.scale [--quick]` writes docs/scale.md.

The order of samples is checked with the package's own permutation, in chunks, for every sample of an epoch; bytes, files,
hours and costs are arithmetic from the real record layout and from measured rates. --quick takes 1 % of the pairs and prints.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmapkd.config.sources import CacheConfig
from cmapkd.core.order import permute
from cmapkd.pyramid.levels import Shape
from cmapkd.store.shards import Field
from cmapkd.store.sizes import estimate_bytes, rows_of_a_shard
from cmapkd.teacher.layout import fields

ROOT = Path(__file__).parents[1]
PAIRS, RANKS, BATCH, SEED = (12_900_000, 100_000_000), (1, 2, 8, 64, 512), 32_768, 0
CHUNK = 64  # batches permuted at a time: 2 M samples, 16 MB an array
VIT_L14 = Shape(
    (1024, 1024, 1024, 1024), (16, 16, 16, 8), (768, 768, 768, 768), 768
)  # what load_tower gives for ViT-L-14
CACHES = {
    "default": (CacheConfig(), 4),
    "recipe vit_l14_to_b16 (4 × 4 cells)": (CacheConfig(grid=4), 2),
}  # settings, views of an image
RATES = ROOT / "benchmarks" / "results" / "gpu" / "step.jsonl"


@dataclass(frozen=True)
class Order:
    """Result of the check of one epoch. drawn: samples; repeated: drawn twice; least, most: samples of a rank."""

    pairs: int
    drawn: int
    repeated: int
    same: bool
    resumed: bool
    least: int
    most: int


def stripe(step: int, rank: int, world: int, pairs: int, batch: int) -> np.ndarray:
    """Samples [batch / world] of a rank in a step: the loader's rule, every `world`-th slot of the batch."""
    epoch, position = divmod(step, pairs // batch)
    slots = np.arange(position * batch + rank, (position + 1) * batch, world)
    return permute(slots % pairs, pairs, SEED, epoch)


def whole(step: int, world: int, pairs: int, batch: int) -> np.ndarray:
    """Samples [batch] of a step, put together from the stripes of all ranks."""
    out = np.empty(batch, np.int64)
    for rank in range(world):
        out[rank::world] = stripe(step, rank, world, pairs, batch)
    return out


def check_order(pairs: int, batch: int, worlds: tuple[int, ...] = RANKS, looks: int = 4) -> Order:
    """Draw all samples of epoch 1, and compare `looks` random steps between the world sizes."""
    steps = pairs // batch
    seen, drawn = np.zeros(pairs, np.bool_), 0
    for first in range(0, steps, CHUNK):
        slots = np.arange(first * batch, min(first + CHUNK, steps) * batch)
        samples = permute(slots, pairs, SEED, 1)
        seen[samples] = True
        drawn += len(samples)
    repeated = drawn - int(np.count_nonzero(seen))
    rng = np.random.default_rng(0)
    chosen = [int(step) for step in rng.integers(0, 2 * steps, looks)]
    same = all(
        np.array_equal(whole(step, 1, pairs, batch), whole(step, w, pairs, batch)) for step in chosen for w in worlds
    )
    # A run of one world size is continued on another: the batch after step s must be the one that the first would see.
    resumed = all(
        np.array_equal(whole(step + 1, w, pairs, batch), whole(step + 1, v, pairs, batch))
        for step, w, v in zip(chosen, worlds, worlds[::-1], strict=False)
    )
    counts = [steps * len(range(rank, batch, worlds[-1])) for rank in range(worlds[-1])]
    return Order(pairs, drawn, repeated, same, resumed, min(counts), max(counts))


def rates() -> dict[str, float]:
    """Pairs per second of one GPU, by kind of step, as benchmarks.on_gpu measured them."""
    rows = [json.loads(line) for line in RATES.read_text().splitlines()]
    return {row["kind"]: row["samples_per_s"] for row in rows if "kind" in row}


def order_table(found: list[Order]) -> list[str]:
    """One row for each number of pairs."""
    lines = ["| pairs | drawn in an epoch | dropped (last batch) | drawn twice | samples of a rank, of 512 | same batches for 1 to 512 ranks | "
             "resumed on another number | ", "|---|---|---|---|---|---|---|"]  # fmt: skip
    for o in found:
        lines.append(
            f"| {o.pairs:,} | {o.drawn:,} | {o.pairs - o.drawn:,} | {o.repeated:,} | {o.least:,} to {o.most:,} | "
            f"{'yes' if o.same else 'NO'} | {'same next batch' if o.resumed else 'OTHER'} |"
        )
    return lines


def records() -> dict[str, tuple[dict[str, Field], dict[str, Field], int]]:
    """(image fields, text fields, views) of each setting."""
    return {name: (*fields(VIT_L14, cache.words, cache), views) for name, (cache, views) in CACHES.items()}


def cache_table(pairs: tuple[int, ...], price: float) -> list[str]:
    """Size, shards and cost of each cache, with one caption per image."""
    lines = ["| cache | pairs | kB a view | kB a caption | TB | rows of a shard | shards | files | GPU hours of the teacher | cost |",
             "|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, (image, text, views) in records().items():
        for n in pairs:
            size = estimate_bytes(image, n * views) + estimate_bytes(text, n)
            rows = rows_of_a_shard(image, n * views), rows_of_a_shard(text, n)
            shards = -(-n * views // rows[0]), -(-n // rows[1])
            files = 2 * (shards[0] * len(image) + shards[1] * len(text))
            hours = n * views / rates()["teacher"] / 3600
            lines.append(
                f"| {name}, {views} views | {n / 1e6:g} M | {estimate_bytes(image, 1) / 1e3:.1f} | {estimate_bytes(text, 1) / 1e3:.1f} | "
                f"{size / 1e12:.1f} | {rows[0]:,} / {rows[1]:,} | {shards[0]:,} / {shards[1]:,} | {files:,} | {hours:,.0f} | ${hours * price:,.0f} |"
            )
    return lines


def training_table(pairs: tuple[int, ...], price: float) -> list[str]:
    """Reading, opened files, hours and cost of an epoch by number of ranks."""
    rate = rates()["cached"]
    columns = ["ranks", "pairs/s", "MB/s of a rank, default", "MB/s of a rank, recipe", "GB/s of all, recipe"]
    columns += [f"{what}, {n / 1e6:g} M" for n in pairs for what in ("files opened by a rank, recipe", "hours", "cost")]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    default, recipe = (
        rate * (estimate_bytes(image, 1) + estimate_bytes(text, 1)) for image, text, _ in records().values()
    )
    for ranks in RANKS:
        cells = [str(ranks), f"{rate * ranks:,.0f}", f"{default / 1e6:.0f}", f"{recipe / 1e6:.0f}"]
        cells.append(f"{ranks * recipe / 1e9:.1f}")
        for n in pairs:
            hours = n / rate / ranks / 3600
            cells += [f"{opened(n, n // ranks):,.0f}", f"{hours:,.2f}", f"${hours * ranks * price:,.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def opened(pairs: int, draws: int) -> float:
    """Expected number of files of the recipe's cache that hold at least one of a rank's random draws in an epoch."""
    image, text, views = list(records().values())[-1]
    total = 0.0
    for layout, rows in ((image, pairs * views), (text, pairs)):
        shards = -(-rows // rows_of_a_shard(layout, rows))
        total += 2 * len(layout) * shards * (1 - (1 - 1 / shards) ** draws)
    return total


def page(pairs: tuple[int, ...], batch: int, price: float, command: str) -> str:
    """The Markdown page of all tables. Raises RuntimeError where the order of samples is wrong."""
    found = [check_order(n, batch) for n in pairs]
    for order in found:
        if order.repeated or not order.same or not order.resumed:
            raise RuntimeError(f"the order of samples is wrong: {order}")
    per_step = " and ".join(str(len(part)) for part in next(iter(records().values()))[:2])
    return "\n".join([
        "# Scale", "",
        f"Every table here is made by `{command}`; do not edit.", "",
        "## The order of samples", "",
        f"Simulated, every sample of an epoch, with `core/order.permute` and the loader's stripes, batch {batch:,}. Each of 1 to 512 ranks",
        "takes every n-th sample of the same batch, so that the number of ranks may change whenever a run is continued.", "",
        *order_table(found), "",
        "## The cache of ViT-L/14", "",
        f"Sizes are those of the real layout (`teacher/layout.fields`), one caption an image. The teacher's rate is {rates()['teacher']:,} pairs/s",
        f"(`python -m benchmarks.on_gpu`, one H200, bf16; `benchmarks/results/gpu/step.jsonl`); a GPU hour is assumed to cost ${price:g} (`--price`).",
        "Hours divide by the number of workers of `cmapkd cache` while images are decoded and the disk writes as fast as that; neither was measured here.", "",
        *cache_table(pairs, price), "",
        "## An epoch of ViT-B/16", "",
        f"The cached step's rate is {rates()['cached']:,} pairs/s and GPU (same source), without communication between ranks: hours are a lower bound.",
        f"A pair reads {per_step} records (image, text), each with its checksum, from shards that a rank opens as they are needed and holds up to the",
        "system's limit of open files (store/opened.py).", "",
        *training_table(pairs, price), "",
    ])  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="1 %% of the pairs, printed instead of written: seconds")
    parser.add_argument("--price", type=float, default=3.0, help="assumed price of a GPU hour in dollars; default: 3")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "scale.md")
    given = parser.parse_args(argv)
    if given.quick:
        print(page(tuple(n // 100 for n in PAIRS), BATCH // 64, given.price, "python -m benchmarks.scale --quick"))
        return
    price = "" if given.price == 3.0 else f" --price {given.price:g}"
    given.out.write_text(page(PAIRS, BATCH, given.price, f"python -m benchmarks.scale{price}"))


if __name__ == "__main__":
    main()
