"""Fit of a smaller BERT that inherits: sentence embeddings on held-out captions, against random weights and dropped layers.

    python -m benchmarks.models.inherit_bert FOLDER CAPTIONS.json --layers 3 --width 192

FOLDER: a BERT with its tokenizer, as transformers reads it; CAPTIONS.json: captions in COCO's format. Sentences are means of
tokens. Each student gets a projection fitted on the same captions. Prints JSON lines: the mean cosine to the teacher's embeddings, and the same
without their mean.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmapkd.pyramid.bridge import ridge
from cmapkd.towers.inherit.blocks import sources
from cmapkd.towers.inherit.head import Head
from cmapkd.towers.inherit.text import inherit_text
from cmapkd.towers.inherit.text_parts import TextParts, mean_pool, transformers_parts

CONTEXT, STRENGTH = 24, 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("captions", type=Path)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--fit", type=int, default=700)
    parser.add_argument("--test", type=int, default=300)
    args = parser.parse_args()
    from transformers import AutoModel, AutoTokenizer

    texts = [each["caption"] for each in json.loads(args.captions.read_text())["annotations"]]
    texts = texts[:: max(1, len(texts) // (args.fit + args.test))][: args.fit + args.test]
    words = AutoTokenizer.from_pretrained(args.folder)(
        texts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
    )
    torch.manual_seed(0)
    order = torch.randperm(len(texts))
    ids, real = words.input_ids[order], words.attention_mask[order].bool()
    teacher = AutoModel.from_pretrained(args.folder).eval()
    for name, student in _students(teacher, args, ids, real).items():
        print(
            json.dumps(
                {
                    "student": name,
                    "layers": args.layers,
                    "width": args.width,
                    **_fit(student, teacher, ids, real, args.fit),
                }
            )
        )


@torch.no_grad()
def _students(teacher: Any, args: argparse.Namespace, ids: Tensor, real: Tensor) -> dict[str, Any]:
    fresh, cut, inherited = (_fresh(teacher, args.layers, args.width) for _ in range(3))
    dropped = copy.deepcopy(teacher)
    dropped.encoder.layer = nn.ModuleList(
        teacher.encoder.layer[k - 1] for k in sources(args.layers, len(teacher.encoder.layer))
    )
    state = dropped.state_dict()
    for name, value in cut.state_dict().items():
        if value.is_floating_point():
            value.copy_(state[name][tuple(slice(side) for side in value.shape)])
    mine, theirs = (_parts(model, teacher.config.hidden_size) for model in (inherited, teacher))
    streams = {"first": teacher.embeddings(ids[: args.fit])}
    inherit_text(mine, theirs, ids[: args.fit], streams, _sentences(teacher, ids, real)[: args.fit])
    return {"random": fresh, "dropped layers, first channels": cut, "inherited": inherited}


def _fresh(teacher: Any, layers: int, width: int) -> Any:
    from transformers import AutoModel

    config, heads = copy.deepcopy(teacher.config), teacher.config.num_attention_heads
    config.num_hidden_layers, config.hidden_size, config.intermediate_size = layers, width, 4 * width
    config.num_attention_heads = max(1, round(heads * width / teacher.config.hidden_size))
    torch.manual_seed(0)
    return AutoModel.from_config(config).eval()


def _parts(model: Any, embedding: int) -> TextParts:
    pad = model.config.pad_token_id
    found = transformers_parts(model)
    assert found is not None, "the folder holds no BERT"
    head = Head(weight=torch.zeros(model.config.hidden_size, embedding))
    return found.used("masked", lambda ids: ids != pad, mean_pool, head)


def _sentences(model: Any, ids: Tensor, real: Tensor) -> Tensor:
    states = [
        model(input_ids=part, attention_mask=mask.long()).last_hidden_state
        for part, mask in zip(ids.split(100), real.split(100), strict=True)
    ]
    return mean_pool(torch.cat(states), real, ids)


@torch.no_grad()
def _fit(student: Any, teacher: Any, ids: Tensor, real: Tensor, count: int) -> dict[str, float]:
    """Cosines on the captions after the first `count`, on which the projection is fitted."""
    mine, theirs = _sentences(student, ids, real), _sentences(teacher, ids, real)
    weight, bias = ridge(mine[:count], theirs[:count], STRENGTH)
    got, want, mean = mine[count:] @ weight + bias, theirs[count:], theirs[:count].mean(0)
    return {
        "cosine": round(float(F.cosine_similarity(got, want).mean()), 4),
        "cosine without mean": round(float(F.cosine_similarity(got - mean, want - mean).mean()), 4),
    }


if __name__ == "__main__":
    main()
