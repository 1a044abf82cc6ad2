"""Text towers of Hugging Face teachers in classes that VisionTextDualEncoderModel can open."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cmapkd.core.errors import UsageError
from cmapkd.towers.families.text_hf import TextHalf

BERTS = ("ChineseCLIPTextModel", "BlipTextModel")  # BERT under other names of classes, with the same names of tensors
SMALL = 2.0**-12  # tanh of numbers this small is the number itself to float32's precision


def opened_text(half: TextHalf, name: str) -> tuple[nn.Module, Tensor]:
    """(a text model that AutoModel opens, the projection [E, D] of its pooler_output) with the embeddings of `half`.

    name: of the teacher, for the error. Raises UsageError for a text model that no such class equals.
    """
    from transformers import MODEL_MAPPING

    text, projection = half.text, half.projection
    if type(text).__name__ in BERTS and isinstance(projection, nn.Linear):
        return _as_bert(half, projection)
    known = MODEL_MAPPING.get(type(text.config), None)
    plain = isinstance(projection, nn.Linear) and projection.bias is None and half.pooled == "pooler"
    if known is not type(text) or not plain:
        raise UsageError(
            f"student.text: teacher, but transformers has no model that opens the {type(text).__name__} of teacher {name} beside "
            "another vision model; give a student with both towers, or the same teacher from open_clip where it has it"
        )
    weight: Any = getattr(projection, "weight", None)
    return text, weight


def _as_bert(half: TextHalf, projection: nn.Linear) -> tuple[nn.Module, Tensor]:
    """A BertModel with the tensors of a text model that is one.

    BertModel pools by tanh of a linear map of the first token. Where the teacher projects the first token itself, that map is
    the projection (or the identity) times SMALL, and the model's projection divides by it again.
    """
    from transformers import BertConfig, BertModel

    config: dict[str, Any] = {
        key: value for key, value in half.text.config.to_dict().items() if key not in ("model_type", "architectures")
    }
    plain: dict[str, Any] = {"is_decoder": False, "add_cross_attention": False}
    bert = BertModel(BertConfig(**(config | plain))).float()
    theirs, own = half.text.state_dict(), bert.state_dict()
    bert.load_state_dict({key: theirs.get(key, torch.zeros_like(value)) for key, value in own.items()})
    if half.pooled == "pooler" and projection.bias is None:
        return bert, projection.weight
    dense: Any = bert.pooler.dense  # type: ignore[union-attr]
    wide, narrow = dense.out_features, projection.out_features
    with torch.no_grad():
        if projection.bias is None:
            dense.weight.copy_(SMALL * torch.eye(wide))
            return bert, projection.weight / SMALL
        dense.weight[:narrow] = SMALL * projection.weight
        dense.bias[:narrow] = SMALL * projection.bias
    return bert, torch.eye(narrow, wide) / SMALL
