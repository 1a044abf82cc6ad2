"""Config of the Hugging Face text encoder that an open_clip config names, read on this machine without the network."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cmapkd.core.errors import UsageError
from cmapkd.towers.sources.weights import read_config

FOLDER = "text"  # beside open_clip_config.json, where the config of its text encoder lies; its hf_model_name
_ROBERTA = {"model_type": "roberta", "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1,
            "layer_norm_eps": 1e-5, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}  # fmt: skip
_XLM = _ROBERTA | {"model_type": "xlm-roberta", "vocab_size": 250002}
_MT5 = {"model_type": "mt5", "vocab_size": 250112, "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12,
        "num_heads": 12, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "pad_token_id": 0,
        "eos_token_id": 1, "decoder_start_token_id": 0}  # fmt: skip
_NLLB = {"model_type": "m2m_100", "vocab_size": 256206, "d_model": 1024, "encoder_layers": 12, "decoder_layers": 12,
         "encoder_attention_heads": 16, "decoder_attention_heads": 16, "encoder_ffn_dim": 4096, "decoder_ffn_dim": 4096,
         "max_position_embeddings": 1024, "scale_embedding": True, "activation_function": "relu", "bos_token_id": 0,
         "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}  # fmt: skip
# Sizes of the encoders that open_clip's own architectures name, from their published config.json.
KNOWN: dict[str, dict[str, Any]] = {
    "roberta-base": _ROBERTA,
    "xlm-roberta-base": _XLM,
    "xlm-roberta-large": _XLM
    | {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    "google/mt5-base": _MT5,
    "google/mt5-xl": _MT5 | {"d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_heads": 32},
    "facebook/nllb-200-distilled-600M": _NLLB,
    "facebook/nllb-200-distilled-1.3B": _NLLB
    | {"encoder_layers": 24, "decoder_layers": 24, "encoder_ffn_dim": 8192, "decoder_ffn_dim": 8192},
}


def text_config(name: str, beside: Path | None) -> dict[str, Any]:
    """The config of the encoder `name` (text_cfg.hf_model_name): of a folder, of open_clip's own, or of the Hugging Face cache.

    beside: the model's folder, in which a relative name is looked for first. Raises UsageError where there is none, and for
    a config with its own Python code, which is never run.
    """
    for folder in ([] if beside is None else [beside / name]) + [Path(name)]:
        if (folder / "config.json").is_file():
            return _vetted(read_config(folder / "config.json"), folder)
    if name in KNOWN:
        return dict(KNOWN[name])
    from huggingface_hub import try_to_load_from_cache

    cached = None if name.startswith((".", "/")) or name.count("/") > 1 else try_to_load_from_cache(name, "config.json")
    if isinstance(cached, str):
        return _vetted(read_config(Path(cached)), Path(cached).parent)
    raise UsageError(
        f"text tower '{name}' is a Hugging Face model whose config.json is not on this machine and would have to be "
        f"downloaded; put it in the folder {name if beside is None else beside / FOLDER} and let text_cfg.hf_model_name be "
        f"{'that folder' if beside is None else repr(FOLDER)}"
    )


@contextmanager
def encoder_folder(name: str, beside: Path | None, over: dict[str, Any]) -> Iterator[str]:
    """A folder of a config.json alone, from which open_clip builds the encoder; `over` replaces values of the config."""
    config = text_config(name, beside) | over
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        yield folder


def exported_text_config(encoder: Any) -> dict[str, Any]:
    """The config of a built encoder, without the folder that it was read from."""
    return {
        key: value for key, value in encoder.config.to_dict().items() if key not in ("_name_or_path", "name_or_path")
    }


def _vetted(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    from open_clip.hf_configs import arch_dict

    kind = config.get("model_type")
    if "auto_map" in config:
        raise UsageError(
            f"text tower {folder}: its config.json names Python code of its own (auto_map), which is never run; "
            "use a model of the transformers library"
        )
    if kind not in arch_dict:
        raise UsageError(
            f"text tower {folder}: model_type '{kind}' is not one that open_clip builds; it builds {', '.join(arch_dict)}"
        )
    return config
