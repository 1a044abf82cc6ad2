"""Dry runs of eight pairs of models at full size with random weights: memory, and seconds of a step on this machine.

    python -m benchmarks.models.full_size --work runs/full-size

Nothing is downloaded. Tokenizers that would be are replaced by one that is trained on captions of the built-in world; the sizes of
vocabularies stay those of the models, but for the Hugging Face pair. Each pair takes two steps of `method: cmapkd` with a live
teacher on batches of 4, and 32 samples of calibration.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.__main__ import RESULTS, write
from cmapkd.config.schema import DataConfig
from cmapkd.data.readers import open_samples
from cmapkd.towers.tokens import tokenizer

BATCH, CONTEXT = 4, 64
PLAIN = {"train": {"steps": 100, "batch": BATCH, "device": "cpu"}, "eval": {"every": None}, "method": "cmapkd",
         "data": {"train": "scenes:64:train", "views": 1}, "cache": {"calibration_samples": 32, "rank": 64, "words": 8}}  # fmt: skip


def pairs(words: Path, work: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """(teacher, student) sections of each pair; words: the folder of a trained tokenizer."""
    large, given = {"model": "ViT-L-14"}, {"tokenizer": str(words)}
    vit_bert = {"model": dual_folder(work / "vit-roberta", words, "roberta", 768, 12, 12), "weights": "random"}
    small_bert = {"model": dual_folder(work / "vit-t-bert", words, "bert", 192, 4, 3), "weights": "random"}
    return {
        "ViT-L-14 → ViT-B-16": (large, {"model": "ViT-B-16"}),
        "ViT-L-14 → RN50": (large, {"model": "RN50"}),
        "ViT-B-16-SigLIP2 → MobileCLIP2-S0": ({"model": "ViT-B-16-SigLIP2", **given}, {"model": "MobileCLIP2-S0"}),
        "EVA02-B-16 → ViT-T-16": ({"model": "EVA02-B-16"}, {"model": "ViT-T-16"}),
        "VisionTextDualEncoder(ViT-B, RoBERTa-base) → (ViT-T, BERT of 4 layers)": (vit_bert, small_bert),
        "DINOv2-B → timm vit_tiny": (
            {"model": "timm:vit_base_patch14_dinov2", "image_size": 224},
            {"model": "timm:vit_tiny_patch16_224"},
        ),
        "ViT-L-14 → timm mobilenetv4, texts of the teacher": (large, {"model": "timm:mobilenetv4_conv_small"}),
    }


def dual_folder(folder: Path, words: Path, text: str, width: int, layers: int, heads: int) -> str:
    """A Hugging Face folder of a ViT and a BERT or RoBERTa: configs and tokenizer, no weights."""
    import transformers

    size: dict[str, Any] = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": 4 * width}
    special: dict[str, Any] = {"vocab_size": tokenizer.vocabulary(words), "pad_token_id": 0}
    kind: Any = {"bert": transformers.BertConfig, "roberta": transformers.RobertaConfig}[text]
    vision = transformers.ViTConfig(**size, num_hidden_layers=12)
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        vision, kind(**size, **special, num_hidden_layers=layers)
    )
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    for file in words.iterdir():
        shutil.copy(file, folder)
    return f"local-dir:{folder}"


def dry_run(name: str, teacher: dict[str, Any], student: dict[str, Any], work: Path) -> dict[str, Any]:
    """A row of the table; `refused` or `failed` holds the last line of a run that ended with an error."""
    config = work / "config.yaml"
    config.write_text(yaml.safe_dump({**PLAIN, "run": str(work / "run"), "teacher": teacher, "student": student}))
    began = time.monotonic()
    command = [sys.executable, "-m", "cmapkd", "distill", "--config", str(config), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    row: dict[str, Any] = {"benchmark": "full_size", "name": name, "wall_s": round(time.monotonic() - began, 1)}
    if done.returncode:
        return row | {"failed" if "Traceback" in said else "refused": said.strip().splitlines()[-1]}
    memory, step = re.search(r"at most ([\d.]+) GB", said), re.search(r"([\d.]+) s a step", said)
    assert memory is not None and step is not None, said
    return row | {"batch": BATCH, "memory_gb": float(memory[1]), "step_s": float(step[1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for configs, tokenizer and runs")
    parser.add_argument("--only", help="part of the names of the pairs to run")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{time.strftime('%Y-%m-%d')}.jsonl")
    got = parser.parse_args()
    words = got.work / "tokenizer"
    if not words.is_dir():
        captions = open_samples("scenes:256:train", DataConfig(train="scenes:256:train"), "train").flat_captions()
        tokenizer.train(captions, 512, CONTEXT, words)
    for name, (teacher, student) in pairs(words, got.work).items():
        if got.only and got.only not in name:
            continue
        row = dry_run(name, teacher, student, got.work)
        print(json.dumps(row, ensure_ascii=False), flush=True)
        write(got.out, [row], ["--work", "runs/full-size"], "benchmarks.models.full_size")


if __name__ == "__main__":
    main()
