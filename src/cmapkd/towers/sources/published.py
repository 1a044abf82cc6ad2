"""Pixels and activation that open_clip's published weights of an architecture were trained with."""

from __future__ import annotations

from pathlib import Path

from cmapkd.core.log import say
from cmapkd.towers.sources.downloads import expected_sha256
from cmapkd.towers.sources.weights import file_hash

Pixels = tuple[tuple[float, ...], tuple[float, ...]]


def published_pixels(architecture: str, weights: Path | None, tag: str | None = None) -> Pixels | tuple[None, None]:
    """(mean, std) per colour channel, of pixels in 0..1, for an architecture of open_clip; (None, None) without published weights.

    tag: of the weights, where the model's name gives it.
    Where the tags of an architecture differ, a file whose name holds a tag (`laion2b_s32b_b82k.safetensors`) is read as that
    tag asks, and any other as the first tag asks; a line says so.
    """
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    name = architecture.replace("/", "-")
    if tag is not None:
        return _pixels(get_pretrained_cfg(name, tag))
    kinds = {tag: _pixels(get_pretrained_cfg(name, tag)) for tag in list_pretrained_tags_by_model(name)}
    if not kinds:
        return None, None
    first = next(iter(kinds))
    if weights is None or len(set(kinds.values())) == 1:
        return kinds[first]
    named = [tag for tag in sorted(kinds, key=len, reverse=True) if tag in weights.as_posix()]
    if not named:
        others = [tag for tag in kinds if kinds[tag] != kinds[first]]
        say(
            f"warning: {architecture}: pixels are normalised as for '{first}'; the published weights {', '.join(others)} take "
            f"mean {kinds[others[0]][0]} and std {kinds[others[0]][1]}: put that name into the file's name if they are these"
        )
    return kinds[named[0] if named else first]


def _pixels(tag: dict) -> Pixels:
    return tuple(tag["mean"]), tuple(tag["std"])


def published_activation(architecture: str, weights: Path, tag: str | None) -> str | None:
    """The tag of open_clip by which a file of weights was trained with QuickGELU, None where nothing says so.

    The tag is the one that the model's name gives; else one that the file's name holds, or whose published SHA-256 the file has.
    """
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    name = architecture.replace("/", "-")
    tags = [each for each in list_pretrained_tags_by_model(name) if get_pretrained_cfg(name, each).get("quick_gelu")]
    if tag is not None:
        return tag if get_pretrained_cfg(name, tag).get("quick_gelu") else None
    if not tags:
        return None
    named = [each for each in sorted(tags, key=len, reverse=True) if each in weights.stem.replace("-", "_")]
    if named:
        return named[0]
    sums = {each: expected_sha256(get_pretrained_cfg(name, each)) for each in tags}
    found = file_hash(weights) if any(sums.values()) else ""
    return next((each for each, known in sums.items() if known and found.startswith(known)), None)
