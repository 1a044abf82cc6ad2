"""Export of a plain ViT student as a Hugging Face CLIP folder, compared numerically with open_clip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from cmapkd.core import fsio
from cmapkd.core.errors import UsageError
from cmapkd.export.folder import write_folder
from cmapkd.export.open_clip_folder import CARD, TOKENIZER, exported_state
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.sources.hf_clip import OPEN_CLIP_OF_HF

HF_OF_OPEN_CLIP = {ours: theirs for theirs, ours in OPEN_CLIP_OF_HF.items()}
PLACES = {
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
}
NORMS = {"visual.ln_pre": "vision_model.pre_layrnorm", "visual.ln_post": "vision_model.post_layernorm",
         "ln_final": "text_model.final_layer_norm"}  # fmt: skip
PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
STACKS = {"visual.transformer.resblocks.": "vision_model.encoder.layers.",
          "transformer.resblocks.": "text_model.encoder.layers."}  # fmt: skip
WAY_OUT = "only plain ViT students fit; export --to open_clip or onnx"
USE = """## Use

```python
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

model = CLIPModel.from_pretrained("PATH")
processor, tokenizer = CLIPImageProcessor.from_pretrained("PATH"), AutoTokenizer.from_pretrained("PATH")
```
"""


def export_hugging_face(tower: DualEncoder, folder: Path, card: str = "", tolerance: float = 1e-5) -> str:
    """Write `folder`, which transformers loads as a CLIPModel; returns a line with the largest difference of embeddings.

    tolerance: largest allowed difference of a component of a normalised embedding. Raises UsageError, before anything is
    written, for a tower that has no equivalent CLIPModel.
    """
    state = hugging_face_state(exported_state(tower.native))
    config = hugging_face_config(tower, state)
    difference = largest_difference(tower, config, state)
    if not difference <= tolerance:
        raise UsageError(f"export to hf: embeddings differ by {difference:.2e}, more than {tolerance:g}; {WAY_OUT}")
    text = card.split("## Use")[0].replace("library_name: open_clip", "library_name: transformers") + USE
    files = {
        "config.json": fsio.json_bytes(config),
        "model.safetensors": save(state, metadata={"format": "pt"}),
        "preprocessor_config.json": fsio.json_bytes(preprocessor_config(tower)),
        CARD: text.encode(),
    }
    write_folder(folder, files | tokenizer_files(tower))
    return f"hf folder: {folder}; largest difference {difference:.2e} from open_clip"


def hugging_face_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """An open_clip state under the names of a CLIPModel. Raises UsageError naming a tensor without a counterpart."""
    out: dict[str, Tensor] = {}
    for full, value in state.items():
        name = full.removeprefix("text.")
        stem, _, part = name.rpartition(".")
        stack = next((prefix for prefix in STACKS if name.startswith(prefix)), None)
        if name in PLACES:
            out[PLACES[name]] = value
        elif name in PROJECTIONS:
            out[PROJECTIONS[name]] = value.T.contiguous()
        elif stem in NORMS:
            out[f"{NORMS[stem]}.{part}"] = value
        elif stack is not None:
            block, _, inner = name.removeprefix(stack).partition(".")
            out |= _block(f"{STACKS[stack]}{block}", inner, value, full)
        else:
            raise UsageError(f"export to hf: tensor {full} has no place in a Hugging Face CLIPModel; {WAY_OUT}")
    return out


def _block(place: str, inner: str, value: Tensor, full: str) -> dict[str, Tensor]:
    stem, _, part = inner.rpartition(".")
    if inner.startswith("attn.in_proj_"):
        part = inner.removeprefix("attn.in_proj_")
        return {
            f"{place}.self_attn.{k}_proj.{part}": v.contiguous() for k, v in zip("qkv", value.chunk(3), strict=True)
        }
    if stem not in HF_OF_OPEN_CLIP:
        raise UsageError(f"export to hf: tensor {full} has no place in a Hugging Face CLIPModel; {WAY_OUT}")
    return {f"{place}.{HF_OF_OPEN_CLIP[stem]}.{part}": value}


def hugging_face_config(tower: DualEncoder, state: dict[str, Tensor]) -> dict[str, Any]:
    """The config.json of the CLIPModel; sizes are taken from the tensors."""
    words = tower.tokenizer
    visual: Any = tower.image.native
    text: Any = tower.text.native
    act = {"hidden_act": "quick_gelu" if tower.package.config.get("quick_gelu") else "gelu"}

    def sizes(model: str, stack: Any) -> dict[str, Any]:
        fc = state[f"{model}.encoder.layers.0.mlp.fc1.weight"]
        return {"hidden_size": fc.shape[1], "intermediate_size": fc.shape[0], "num_hidden_layers": len(stack),
                "num_attention_heads": stack[0].attn.num_heads, "projection_dim": tower.shape.embedding} | act  # fmt: skip

    return {
        "model_type": "clip", "architectures": ["CLIPModel"], "dtype": "float32",
        "projection_dim": tower.shape.embedding, "logit_scale_init_value": float(state["logit_scale"]),
        "vision_config": sizes("vision_model", visual.transformer.resblocks)
        | {"image_size": tower.size, "patch_size": state[PLACES["visual.conv1.weight"]].shape[-1]},
        "text_config": sizes("text_model", text.transformer.resblocks)
        | {"vocab_size": state[PLACES["token_embedding.weight"]].shape[0], "max_position_embeddings": words.context,
           "bos_token_id": words.start, "eos_token_id": words.end, "pad_token_id": words.pad},
    }  # fmt: skip


@torch.inference_mode()
def largest_difference(tower: DualEncoder, config: dict[str, Any], state: dict[str, Tensor]) -> float:
    """The largest difference between normalised embeddings of the two models, on random images and token ids."""
    from transformers import CLIPConfig, CLIPModel

    model: Any = CLIPModel(CLIPConfig.from_dict(config)).eval()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(f"export to hf: {str(error).splitlines()[-1].strip()[:160]}; {WAY_OUT}") from None
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 3, tower.size, tower.size), generator=generator, dtype=torch.uint8)
    ids = torch.randint(3, tower.tokenizer.end, (3, tower.tokenizer.context), generator=generator)
    for row, length in enumerate((4, ids.shape[1] // 2, ids.shape[1])):
        ids[row, length - 1], ids[row, length:] = tower.tokenizer.end, tower.tokenizer.pad
    own: Any = tower.native.eval().cpu()
    images = tower.normalise(pixels.to(tower.device)).cpu()
    found = (model.get_image_features(images).pooler_output, model.get_text_features(ids).pooler_output)
    wanted = (own.encode_image(images), own.encode_text(ids))
    return max(
        float((F.normalize(a, dim=-1) - F.normalize(b, dim=-1)).abs().max()) for a, b in zip(found, wanted, strict=True)
    )


def preprocessor_config(tower: DualEncoder) -> dict[str, Any]:
    """The preprocessor_config.json of a CLIPImageProcessor."""
    mean, std = (tower.image.mean, tower.image.std)
    return {
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": tower.size},
        "resample": 3, "do_center_crop": True, "crop_size": {"height": tower.size, "width": tower.size},
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": list(mean),
        "image_std": list(std), "do_convert_rgb": True,
    }  # fmt: skip


def tokenizer_files(tower: DualEncoder) -> dict[str, bytes]:
    """The files of the tokenizer, or CLIP's own vocabulary in the format of transformers."""
    folder = tower.tokenizer.folder
    if folder is not None:
        return {name: (folder / name).read_bytes() for name in TOKENIZER if (folder / name).is_file()}
    import open_clip

    own: Any = open_clip.SimpleTokenizer(context_length=tower.tokenizer.context)
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in own.bpe_ranks)]) + "\n"
    start, end = "<|startoftext|>", "<|endoftext|>"  # open_clip has other names for these two entries
    names = {own.sot_token_id: start, own.eot_token_id: end}
    vocabulary = json.dumps({names.get(k, word): k for word, k in own.encoder.items()}, ensure_ascii=False).encode()
    special = {"tokenizer_class": "CLIPTokenizer", "model_max_length": tower.tokenizer.context, "unk_token": end,
               "bos_token": start, "eos_token": end, "pad_token": end}  # fmt: skip
    return {"vocab.json": vocabulary, "merges.txt": merges.encode(), "tokenizer_config.json": fsio.json_bytes(special)}
