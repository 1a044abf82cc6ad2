"""Files of published models: found in the caches of open_clip and huggingface_hub, and fetched by their loaders only where the user asks.

The user asks by `download: true` at the model in the config, or by `--download` for a whole call. A name never reaches the network otherwise.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from cmapkd.config.sources import DOWNLOAD
from cmapkd.core import fsio
from cmapkd.core.errors import IntegrityError, UsageError

CONFIGS = ("open_clip_config.json", "config.json")
MODEL_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
TOKENIZER_FILES = ["*token*", "vocab*", "merges.txt", "*.model"]
CLIP_CACHE = Path("~/.cache/clip")  # of files that open_clip fetches from addresses
HOW = "or allow it: --download, or download: true beside the model's name"


def asked(download: bool) -> bool:
    """Whether downloads are allowed for a model."""
    return download or os.environ.get(DOWNLOAD) == "1"


def tag_file(architecture: str, tag: str, download: bool) -> Path:
    """The file of weights that open_clip publishes under a tag, with its checksum verified where open_clip knows one.

    Raises UsageError where it is not on this machine and not asked for, and IntegrityError for another checksum.
    """
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    published = get_pretrained_cfg(architecture, tag)
    found = _cached_tag(published)
    if found is None and asked(download):
        found = Path(_fetched(f"{architecture}/{tag}", lambda: download_pretrained(published)))
    if found is None:
        repository, _, name = published.get("hf_hub", "").rpartition("/")
        source = f"{repository} ({name or 'its weights'}) of the Hugging Face hub" if repository else published["url"]
        place = "the cache folder of huggingface_hub" if repository else str(_clip_cache(published["url"]))
        raise UsageError(
            f"model {architecture}/{tag}: its weights are not on this machine; fetch {source} into {place}, or give the file "
            f"as weights: FILE beside model: {architecture}, {HOW}"
        )
    _verify(found, expected_sha256(published) if found.parent == CLIP_CACHE.expanduser() else "")
    return found


def expected_sha256(published: dict[str, Any]) -> str:
    """The SHA-256, or its first digits, that open_clip's table tells of a published file; empty where it tells none."""
    url = published.get("url", "")
    if "openaipublic" in url:
        return url.split("/")[-2]
    return Path(url).stem.rpartition("-")[2] if "mlfoundations" in url else ""


def hub_folder(name: str, download: bool) -> Path:
    """The folder of a model of the Hugging Face hub, `org/name`, in huggingface_hub's cache.

    Raises UsageError where it is not there and not asked for.
    """
    found = _cached(name, CONFIGS)
    if (found is None or not _weights_in(found)) and asked(download):
        from huggingface_hub import snapshot_download

        found = Path(_fetched(name, lambda: snapshot_download(name, allow_patterns=MODEL_FILES)))
        if not _weights_in(found):
            found = Path(_fetched(name, lambda: snapshot_download(name, allow_patterns=[*MODEL_FILES, "*.bin"])))
    if found is None:
        raise UsageError(
            f"model hf-hub:{name}: not on this machine; fetch it with `hf download {name}` into the cache folder of "
            f"huggingface_hub, or give model: local-dir:FOLDER, {HOW}"
        )
    return found


def tokenizer_folder(name: str, download: bool = False) -> Path | None:
    """The folder of a tokenizer of the Hugging Face hub in huggingface_hub's cache, None where it is not there and not asked for."""
    found = _cached(name, ("tokenizer.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"))
    if found is None and asked(download):
        from huggingface_hub import snapshot_download

        return Path(_fetched(name, lambda: snapshot_download(name, allow_patterns=TOKENIZER_FILES)))
    return found


def _cached_tag(published: dict[str, Any]) -> Path | None:
    if hub := published.get("hf_hub"):
        repository, _, name = hub.rpartition("/")
        names = (name,) if name else ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
        for each in names:
            safe = (Path(each).with_suffix(".safetensors").name, each)
            if (folder := _cached(repository, safe)) is not None:
                return next(folder / one for one in safe if (folder / one).is_file())
    place = _clip_cache(published["url"]) if published.get("url") else None
    return place if place is not None and place.is_file() else None


def _clip_cache(url: str) -> Path:
    """Path of the copy that open_clip keeps of a file from an address."""
    return CLIP_CACHE.expanduser() / Path(url).name


def _cached(name: str, files: tuple[str, ...]) -> Path | None:
    """The snapshot in huggingface_hub's cache that holds the first of `files` that is there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        places = [try_to_load_from_cache(name, file) for file in files]
    except HFValidationError as error:
        raise UsageError(f"'{name}' is no name of the Hugging Face hub ({' '.join(str(error).split())[:80]})") from None
    return next((Path(place).parent for place in places if isinstance(place, str)), None)


def _weights_in(folder: Path) -> bool:
    return any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))


def _fetched(name: str, fetch: Any) -> str:
    try:
        return fetch()
    except Exception as error:  # the loaders raise what their libraries for the network raise
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UsageError(
            f"{name}: the download failed ({type(error).__name__}: {reason}); try again, or give a local file"
        ) from None


def _verify(path: Path, expected: str) -> None:
    if expected and not _sha256(path, path.stat().st_size, path.stat().st_mtime_ns).startswith(expected):
        raise IntegrityError(
            f"weights {path}: its SHA-256 does not begin with the published {expected}; fetch it again"
        )


@lru_cache
def _sha256(path: Path, size: int, changed: int) -> str:
    return fsio.sha256_file(path)
