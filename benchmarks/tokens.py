"""Time of tokenising captions: CLIP's BPE word by word, and a BPE trained on the captions by offsets.

python -m benchmarks.tokens FILE     # Flickr8k's token file, or any with the caption behind the last tab
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from open_clip import SimpleTokenizer

from cmapkd.towers.tokens import tokenizer as tok

BATCH, CONTEXT = 256, 77


def microseconds(tokenizer: tok.Tokenizer, captions: list[str]) -> float:
    """Processor time of one caption, in batches, after a first pass over 5,000 captions."""
    tokenizer(captions[:5000])
    start = time.process_time()
    for first in range(0, len(captions), BATCH):
        tokenizer(captions[first : first + BATCH])
    return (time.process_time() - start) / len(captions) * 1e6


def main(file: Path) -> None:
    captions = [line.rpartition("\t")[2] for line in file.read_text(encoding="utf-8").splitlines()]
    print(
        f"CLIP, word by word: {microseconds(tok.from_open_clip(SimpleTokenizer(), CONTEXT), captions):.0f} µs a caption"
    )
    with tempfile.TemporaryDirectory() as folder:
        tok.train(captions, 4000, CONTEXT, Path(folder))
        tokenizer = tok.from_hugging_face(Path(folder), CONTEXT)
        print(f"a BPE of 4,000 entries, by offsets: {microseconds(tokenizer, captions):.0f} µs a caption")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
