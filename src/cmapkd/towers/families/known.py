"""Table of the model families that teach and learn, for `cmapkd list families` and the documentation. Imports no torch.

tests/test_families.py holds it against toy models of every family.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Family:
    """One family of models.

    written: a name in a config. image: the parts of the image tower that P2..P5 read. text: the text tower's blocks and the
    token or mean that it pools (L4), none for a model of images. similarity: kinds that such models have. folder: the
    library that opens a trained student.
    """

    name: str
    written: str
    image: Literal["blocks", "stages", "blocks or stages"]
    text: str
    similarity: str
    folder: str

    @property
    def about(self) -> str:
        """One line: levels, similarity, folder of the student, and an example."""
        text = self.text if self.text == "no texts" else f"texts by {self.text}"
        return f"P2-P5 from {self.image}; {text}; {self.similarity}; student opens in {self.folder}; {self.written}"


CAUSAL = "causal blocks, end token"
BOTH_WAYS = "bidirectional blocks, last token"
ENCODER = "bidirectional blocks, first token or mean"
SOFTMAX, SIGMOID = "softmax", "sigmoid"
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("open_clip-vit", "ViT-B-16:FILE", "blocks", CAUSAL, SOFTMAX, "open_clip"),
        Family("open_clip-rn", "RN50/openai", "stages", CAUSAL, SOFTMAX, "open_clip"),
        Family("open_clip-convnext", "convnext_base_w:FILE", "stages", CAUSAL, SOFTMAX, "open_clip"),
        Family("open_clip-swin", "swin_base_patch4_window7_224:FILE", "stages", CAUSAL, SOFTMAX, "open_clip"),
        Family("open_clip-eva02", "EVA02-B-16:FILE", "blocks", CAUSAL, SOFTMAX, "open_clip"),
        Family("open_clip-clipa", "ViT-L-14-CLIPA:FILE", "blocks", BOTH_WAYS, SOFTMAX, "open_clip"),
        Family("open_clip-mobileclip", "MobileCLIP2-S0:FILE", "stages", CAUSAL, SOFTMAX, "open_clip"),
        Family("open_clip-siglip", "ViT-B-16-SigLIP2:FILE", "blocks", BOTH_WAYS, SIGMOID, "open_clip"),
        Family("open_clip-pe", "PE-Core-B-16:FILE", "blocks", CAUSAL, SOFTMAX, "open_clip"),
        Family("open_clip-coca", "coca_ViT-B-32:FILE", "blocks", "causal blocks, class token at the end", SOFTMAX, "open_clip"),
        Family("open_clip-encoder", "xlm-roberta-base-ViT-B-32:FILE", "blocks", ENCODER, SOFTMAX, "open_clip"),
        Family("hf-clip", "local-dir:FOLDER", "blocks", CAUSAL, SOFTMAX, "open_clip"),
        Family("hf-siglip", "local-dir:FOLDER", "blocks", BOTH_WAYS, SIGMOID, "transformers"),
        Family("hf-siglip2", "local-dir:FOLDER", "blocks", BOTH_WAYS, SIGMOID, "transformers"),
        Family("hf-chinese-clip", "local-dir:FOLDER", "blocks", ENCODER, SOFTMAX, "transformers"),
        Family("hf-altclip", "local-dir:FOLDER", "blocks", ENCODER, SOFTMAX, "transformers"),
        Family("hf-metaclip2", "local-dir:FOLDER", "blocks", CAUSAL, SOFTMAX, "transformers"),
        Family("hf-vision-text", "local-dir:FOLDER", "blocks or stages", ENCODER, SOFTMAX, "transformers"),
        Family("hf-blip", "local-dir:FOLDER", "blocks", ENCODER, SOFTMAX, "transformers"),
        Family("timm", "timm:vit_tiny_patch16_224:FILE", "blocks or stages", "no texts", SOFTMAX, "open_clip, transformers or timm"),
        Family("torchvision", "torchvision:mobilenet_v3_small:FILE", "stages", "no texts", SOFTMAX, "cmapkd"),
        Family("hf-vision", "hf:FOLDER", "blocks or stages", "no texts", SOFTMAX, "transformers or cmapkd"),
        Family("module", "distill(student=MODULE, taps=(...))", "blocks or stages", "no texts", SOFTMAX, "cmapkd"),
    )
}  # fmt: skip
