"""`cmapkd data inspect PATH`: what a captions file or folder holds, and the config block that reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from cmapkd.config.schema import DataConfig
from cmapkd.data.readers import open_samples
from cmapkd.data.readers.folder import SPLITS
from cmapkd.data.readers.sniff import first_line, sniff
from cmapkd.data.readers.table import columns, guess_keys, guess_separator
from cmapkd.data.readers.text import read_json
from cmapkd.data.samples import Samples

SHOWN = 3


def inspect(path: str) -> str:
    """A report in plain text. Raises DataError or UsageError where the data cannot be read at all."""
    kind, found, extra = settings(path)
    splits = splits_of(kind, found)
    wanted = next((name for name in ("train", *splits) if name in splits), None)
    samples = open_samples(str(found), DataConfig.model_validate({"train": str(found), **extra}), wanted)
    lines = [f"{path}", f"format: {kind}" + (f" (read from {found})" if str(found) != path else "")]
    if splits:
        lines.append("splits: " + ", ".join(f"{name} ({count})" if count else name for name, count in splits.items()))
        lines.append(f"below: split {wanted}")
    lines += [*facts(samples), "", "to paste into a config:", *block(str(found), extra, splits)]
    return "\n".join(lines)


def settings(path: str) -> tuple[str, Path, dict[str, str]]:
    """(format, what is read, config keys that differ from their defaults)."""
    if path.startswith("scenes:"):
        return "scenes", Path(path), {}
    kind, found = sniff(Path(path).expanduser())
    extra: dict[str, str] = {}
    if kind == "csv":
        head, plain = first_line(found), DataConfig(train=path)
        header = columns(head, guess_separator(head, plain))
        image, text = guess_keys(header)
        extra |= {"image_key": image} if image and plain.image_key not in header else {}
        extra |= {"text_key": text} if text and plain.text_key not in header else {}
    return kind, found, extra


def splits_of(kind: str, path: Path) -> dict[str, int]:
    """Split names that the data offers, with image counts where the file says them (0 otherwise)."""
    if kind == "karpathy":
        return dict(Counter(str(image.get("split", "all")) for image in read_json(path)["images"]))
    if kind == "flickr":
        lists = {
            w: sorted(path.parent.glob(f"*{n}Images.txt"))
            for w, n in (("train", "train"), ("val", "dev"), ("test", "test"))
        }
        return {word: len(set(found[0].read_text().split())) for word, found in lists.items() if found}
    if kind == "folder":
        return {name: 0 for name in SPLITS if (path / name).is_dir()}
    return {}


def facts(samples: Samples) -> Iterable[str]:
    """Counts, what was dropped, repeated captions, and the first samples."""
    counts = [len(captions) for captions in samples.captions]
    yield f"images: {len(samples)}"
    yield f"captions: {samples.n_captions}"
    yield f"captions per image: min {min(counts)}, mean {sum(counts) / len(counts):.2f}, max {max(counts)}"
    repeated = Counter(samples.flat_captions())
    yield f"duplicate captions: {samples.n_captions - len(repeated)}"
    if samples.classes is not None:
        yield f"classes: {len(samples.classes)} ({', '.join(samples.classes[:SHOWN])}, …)"
    yield from (f"note: {note}" for note in samples.notes or ("nothing dropped, no file missing",))
    yield f"fingerprint: {samples.fingerprint()[:16]}"
    yield "samples:"
    for name, captions in list(zip(samples.ids, samples.captions, strict=True))[:SHOWN]:
        yield f"  {name}: {captions[0]}"


def block(path: str, extra: dict[str, str], splits: dict[str, int]) -> Iterable[str]:
    """YAML of `data:`; train and val are the same path where it holds both."""
    yield "data:"
    yield f"  train: {quoted(path)}"
    yield from (f"  {key}: {quoted(value)}" for key, value in extra.items())
    held = next((name for name in ("val", "dev", "validation", "test") if name in splits), None)
    if "train" in splits and held:
        yield f"  val: {quoted(path)}"
        yield "  train_split: train"
        yield f"  val_split: {held}"


def quoted(value: str) -> str:
    """A YAML scalar; quoted where YAML would read something else."""
    plain = value and value.replace("/", "").replace(".", "").replace("_", "").replace("-", "").isalnum()
    return value if plain and not value.startswith("-") else "'" + value.replace("'", "''") + "'"
