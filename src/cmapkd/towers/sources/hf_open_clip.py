"""The text towers of SigLIP, SigLIP 2 and MetaCLIP 2 in transformers as open_clip's, with the model's scale and bias."""

from __future__ import annotations

from typing import Any

import torch

from cmapkd.core.errors import UsageError
from cmapkd.towers.adapt import adapt
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.sources import open_clip
from cmapkd.towers.sources.hf_clip import renamed_blocks
from cmapkd.towers.tokens.tokenizer import Tokenizer, from_folder

LIKE_OPEN_CLIP = ("SiglipModel", "Siglip2Model", "MetaClip2Model")
PROBE = ["A photo of two Red kites, over the sea.", "rings"]  # capitals and punctuation, which some tokenizers drop
CLEANED = (
    "canonicalize",
    "lower",
    "whitespace",
)  # most change first: a later one may rest on files of the teacher's folder
NO_IMAGES = {
    "image_size": 32,
    "layers": 1,
    "width": 32,
    "head_width": 32,
    "patch_size": 16,
}  # replaced by the student's


def as_open_clip(teacher: DualEncoder, words: int) -> DualEncoder:
    """An open_clip model with the teacher's text tower, and an image tower that is to be replaced."""
    native: Any = teacher.native
    cfg = _model_cfg(native.config.text_config, native)
    cfg["text_cfg"]["context_length"] = teacher.tokenizer.context
    clip: Any = open_clip.build(cfg)
    state = {name: value for name, value in clip.state_dict().items() if name.startswith("visual.")}
    clip.load_state_dict(state | _state(native, teacher.tokenizer.context))
    return adapt(
        clip, _tokenizer(teacher, cfg["text_cfg"]), 32, teacher.image.mean, teacher.image.std, cfg, teacher.name, words
    )


def _tokenizer(teacher: DualEncoder, text_cfg: dict[str, Any]) -> Tokenizer:
    """The folder's tokenizer as open_clip reads it, with the cleaning by which PROBE gets the teacher's ids.

    transformers lowers the texts of SigLIP 2, whose tokenizer.json does not. Raises UsageError where no cleaning does.
    """
    folder, context = teacher.tokenizer.folder, teacher.tokenizer.context
    assert folder is not None
    for clean in CLEANED:
        found = from_folder(folder, context, {"clean": clean})
        if torch.equal(found(PROBE)[0], teacher.tokenizer(PROBE)[0]):
            text_cfg["tokenizer_kwargs"] = {"clean": clean}
            return found
    raise UsageError(
        f"student.text: teacher, but open_clip reads the tokenizer of {folder} in another way than transformers; give a student "
        "with both towers"
    )


def _model_cfg(text: Any, native: Any) -> dict[str, Any]:
    sigmoid = getattr(native, "logit_bias", None) is not None
    last = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    act = {"act_kwargs": {"approximate": "tanh"}} if text.hidden_act == "gelu_pytorch_tanh" else {}
    return {
        "embed_dim": text.projection_size if sigmoid else native.config.projection_dim,
        "custom_text": True,
        "quick_gelu": text.hidden_act == "quick_gelu",
        "vision_cfg": dict(NO_IMAGES),
        "text_cfg": {
            "vocab_size": text.vocab_size,
            "hf_tokenizer_name": "tokenizer",
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "layers": text.num_hidden_layers,
            "mlp_ratio": text.intermediate_size / text.hidden_size,
            "norm_kwargs": {"eps": text.layer_norm_eps},
            **(last if sigmoid else {"pool_type": "eos", "eos_id": text.eos_token_id}),
            **act,
        },
    } | ({"init_logit_bias": -10} if sigmoid else {})


def _state(native: Any, context: int) -> dict[str, torch.Tensor]:
    """The tensors of text, scale and bias under open_clip's names."""
    text = native.text_model.state_dict()
    out = {
        "text.token_embedding.weight": text["embeddings.token_embedding.weight"],
        "text.positional_embedding": text["embeddings.position_embedding.weight"][:context],
        "text.ln_final.weight": text["final_layer_norm.weight"],
        "text.ln_final.bias": text["final_layer_norm.bias"],
        "logit_scale": native.logit_scale.reshape(()),
        **renamed_blocks(text, "encoder.layers", "text.transformer"),
    }
    if getattr(native, "logit_bias", None) is not None:
        head = {f"text.text_projection.{part}": text[f"head.{part}"] for part in ("weight", "bias")}
        return out | head | {"logit_bias": native.logit_bias.reshape(())}
    return out | {"text.text_projection": native.text_projection.weight.T}
