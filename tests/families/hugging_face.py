"""Toy Hugging Face folders for tests: a model of each type with random weights and a tokenizer trained on a few captions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import toy
from cmapkd.core import fsio
from cmapkd.towers.sources.hugging_face import quiet

SIZE, CONTEXT, VOCABULARY = 32, 32, 160
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": 8,
          "image_size": SIZE}  # fmt: skip
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
        "vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT}  # fmt: skip


def word_pieces(folder: Path) -> None:
    """A BERT tokenizer: WordPiece with [CLS], [SEP] and [PAD]."""
    fast = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    fast.normalizer = normalizers.BertNormalizer(lowercase=True)
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    fast.train_from_iterator(
        toy.CAPTIONS, trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    )
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    _write(folder, fast, names)


def byte_pairs(folder: Path) -> None:
    """A RoBERTa tokenizer: byte-level BPE with <s>, </s> and <pad>."""
    fast = Tokenizer(models.BPE(unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"], show_progress=False
    )
    fast.train_from_iterator(toy.CAPTIONS, trainer)
    fast.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>",
             "unk_token": "<unk>", "mask_token": "<mask>"}  # fmt: skip
    _write(folder, fast, names)


def unigrams(folder: Path) -> None:
    """A SigLIP tokenizer: Unigram with </s>, which is its padding as well, and no start token."""
    fast = Tokenizer(models.Unigram())
    fast.normalizer = normalizers.Lowercase()
    fast.pre_tokenizer = pre_tokenizers.Metaspace()
    fast.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=100, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    fast.train_from_iterator(toy.CAPTIONS, trainer)
    fast.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>", "model_input_names": ["input_ids"]}
    _write(folder, fast, names)


def gemma_pairs(folder: Path) -> None:
    """A SigLIP 2 tokenizer: Gemma's BPE with <eos> and <pad>; transformers lowers its texts, the file does not."""
    fast = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    fast.normalizer = normalizers.Replace(" ", "▁")
    fast.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    fast.decoder = decoders.Replace("▁", " ")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    fast.train_from_iterator([text.lower() for text in toy.CAPTIONS], trainer)
    fast.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    names = {
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "bos_token": "<bos>",
        "mask_token": "<mask>",
    }
    _write(folder, fast, names | {"tokenizer_class": "GemmaTokenizer", "model_input_names": ["input_ids"]})


def _write(folder: Path, fast: Tokenizer, names: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    fsio.write_bytes(folder / "tokenizer.json", fast.to_str().encode())
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT, "padding_side": "right"}
    fsio.write_json(folder / "tokenizer_config.json", settings | names)


def write(folder: Path, model: Callable[[], Any], tokenizer: Callable[[Path], None] | None, **processor: Any) -> str:
    """A folder with the model, its tokenizer and preprocessor_config.json; the name for `model` in a config."""
    torch.manual_seed(0)
    with quiet():
        built = model()
    for parameter in built.parameters():
        if parameter.ndim > 1:  # the library's own beginnings are so small that toys give all texts one embedding
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    if getattr(built, "logit_bias", None) is not None:
        built.logit_scale.data.fill_(2.0)
        built.logit_bias.data.fill_(-3.0)
    with quiet():
        built.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer(folder)
    fsio.write_json(folder / "preprocessor_config.json", {"size": {"height": SIZE, "width": SIZE}} | processor)
    return f"local-dir:{folder}"


def siglip(folder: Path) -> str:
    config = transformers.SiglipConfig(
        text_config=TEXT | {"projection_size": 32, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
        vision_config=VISION,
    )
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return write(folder, lambda: transformers.SiglipModel(config), unigrams, **half)


def siglip2(folder: Path) -> str:
    vision = {key: value for key, value in VISION.items() if key != "image_size"} | {"num_patches": 16}
    config = transformers.Siglip2Config(
        text_config=TEXT | {"projection_size": 32, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0},
        vision_config=vision,
    )
    return write(folder, lambda: transformers.Siglip2Model(config), gemma_pairs, max_num_patches=16, patch_size=8)


def chinese_clip(folder: Path) -> str:
    config = transformers.ChineseCLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=24)
    return write(folder, lambda: transformers.ChineseCLIPModel(config), word_pieces)


def altclip(folder: Path) -> str:
    text = TEXT | {"max_position_embeddings": CONTEXT + 2, "project_dim": 40, "pad_token_id": 1}
    config = transformers.AltCLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
    return write(folder, lambda: transformers.AltCLIPModel(config), byte_pairs)


def metaclip_2(folder: Path) -> str:
    text = TEXT | {"eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1}
    config = transformers.MetaClip2Config(text_config=text, vision_config=VISION, projection_dim=24)
    return write(folder, lambda: transformers.MetaClip2Model(config), byte_pairs)


def dual(folder: Path, vision: Any, text: Any, tokenizer: Callable[[Path], None]) -> str:
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=24)
    return write(folder, lambda: transformers.VisionTextDualEncoderModel(config), tokenizer)


def vit_bert(folder: Path) -> str:
    return dual(folder, transformers.ViTConfig(**VISION), transformers.BertConfig(**TEXT), word_pieces)


def swin_roberta(folder: Path) -> str:
    vision = transformers.SwinConfig(
        image_size=SIZE, patch_size=2, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2
    )
    text = transformers.RobertaConfig(**(TEXT | {"max_position_embeddings": CONTEXT + 2}))
    return dual(folder, vision, text, byte_pairs)


def timm_bert(folder: Path) -> str:
    vision = timm_config("test_convnext")
    return dual(folder, vision, transformers.BertConfig(**TEXT), word_pieces)


def timm_config(name: str) -> Any:
    import timm

    features = timm.create_model(name, pretrained=False).num_features
    size = {"input_size": [3, SIZE, SIZE], "mean": [0.5] * 3, "std": [0.5] * 3}
    return transformers.TimmWrapperConfig.from_dict(
        {"architecture": name, "pretrained_cfg": size, "hidden_size": features, "num_classes": 0, "label_names": []}
    )


def blip(folder: Path, name: str = "BlipForImageTextRetrieval") -> str:
    text = TEXT | {"encoder_hidden_size": 32, "bos_token_id": 2, "sep_token_id": 3}
    config = transformers.BlipConfig(
        text_config=text, vision_config=VISION, projection_dim=24, image_text_hidden_size=24
    )
    return write(folder, lambda: getattr(transformers, name)(config), word_pieces)


def blip_model(folder: Path) -> str:
    return blip(folder, "BlipModel")


def clip(folder: Path) -> str:
    text = TEXT | {"eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
    return write(folder, lambda: transformers.CLIPModel(config), byte_pairs)


FAMILIES: dict[str, Callable[[Path], str]] = {
    "hf-clip": clip,
    "hf-siglip": siglip,
    "hf-siglip2": siglip2,
    "hf-chinese-clip": chinese_clip,
    "hf-altclip": altclip,
    "hf-metaclip2": metaclip_2,
    "hf-vit-bert": vit_bert,
    "hf-swin-roberta": swin_roberta,
    "hf-timm-bert": timm_bert,
    "hf-blip": blip,
    "hf-blip-model": blip_model,
}
