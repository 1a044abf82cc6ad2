"""Sizes of a store: its bytes on disk, and the number of rows of a shard."""

from __future__ import annotations

from collections.abc import Mapping

from cmapkd.store.shards import Field

LARGEST, FEWEST_ROWS = 1 << 29, 64  # bytes of a shard, which its writer holds in memory; rows
MOST_SHARDS, HUGE = 2048, 1 << 30  # a store of more shards doubles them, up to so many bytes: a reader opens them all
FEWEST_SHARDS, SMALL_ROWS = 16, 256  # so that several workers have something to share even on small data


def estimate_bytes(fields: Mapping[str, Field], rows: int) -> int:
    """Bytes on disk of `rows` records with their checksums."""
    return rows * sum(field.nbytes + 8 for field in fields.values())


def rows_of_a_shard(fields: Mapping[str, Field], rows: int) -> int:
    """Rows of a shard, a power of 2: 4096 unless records are large, or rows are very few or very many."""
    size, count = estimate_bytes(fields, 1), 4096
    while count > FEWEST_ROWS and count * size > LARGEST:
        count //= 2
    while count > SMALL_ROWS and count * FEWEST_SHARDS > rows:
        count //= 2
    while count * MOST_SHARDS < rows and 2 * count * size <= HUGE:
        count *= 2
    return count
