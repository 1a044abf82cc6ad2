"""The model card: description, scores, training data and command of a model. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cmapkd.core.errors import UsageError

REQUIRED = ("name", "method", "data", "scores", "command")
KNOWN = (
    *REQUIRED,
    "license",
    "fingerprint",
    "teacher",
    "student",
    "params",
    "synthetic",
    "library",
    "class",
    "encoder",
    "images_alone",
)
UNLICENSED = (
    "\n\nNo licence was stated for these weights; what may be done with them depends on the teacher's and the data's."
)
SYNTHETIC = "> **Trained or evaluated on synthetic data.** Its scores say nothing about photographs.\n\n"

INSIDE = "# Run this inside the model's folder: open_clip reads the config of the text encoder as text/config.json.\n"
USE = {
    "open_clip": """import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:PATH")
tokenizer = open_clip.get_tokenizer("local-dir:PATH")""",
    "timm": """import timm

model = timm.create_model("local-dir:PATH", pretrained=True)  # pixels to embeddings""",
    "module": """import cmapkd

model = cmapkd.load("PATH", image=module)  # the module that was trained, built anew""",
    "cmapkd": """import cmapkd

model = cmapkd.load("PATH")""",
    "transformers": """from transformers import AutoImageProcessor, AutoTokenizer, {cls}

model = {cls}.from_pretrained("PATH")
processor, tokenizer = AutoImageProcessor.from_pretrained("PATH"), AutoTokenizer.from_pretrained("PATH")""",
}

TEMPLATE = """---
license: {license}
library_name: {library}
pipeline_tag: {pipeline}
tags: [clip, knowledge-distillation, cmapkd]
---

# {name}

{warning}{summary}{unlicensed}

## Scores

{scores}

## Training

{training}

Data:

{data}

Command:

```
{command}
```

## Use

```python
{use}
```
"""


def model_card(facts: Mapping[str, Any]) -> str:
    """A model card as Markdown with YAML front matter.

    facts: name, method, command; data: its name or lines about it, with `fingerprint` unless the lines contain it;
    scores: a mapping from metric to fraction, or lines as of `Score.line()`. Optional: license, teacher, student, params,
    synthetic (bool), images_alone (bool), library (which opens the folder) and class (of transformers), encoder
    (bool: an open_clip folder whose text tower is a Hugging Face encoder). Every other fact is listed under Training.
    Raises UsageError naming the missing facts.
    """
    missing = [key for key in REQUIRED if not facts.get(key)]
    if missing:
        raise UsageError(f"model card: {', '.join(missing)} missing; a card without them tells too little to publish")
    architecture = f"`{_one_line(facts['student'])}` " if facts.get("student") else ""
    teacher = f"distilled from `{_one_line(facts['teacher'])}`" if facts.get("teacher") else "trained without a teacher"
    size = f" It has {facts['params'] / 1e6:.1f} M parameters." if facts.get("params") else ""
    data = [facts["data"]] if isinstance(facts["data"], str) else list(facts["data"])
    if facts.get("fingerprint"):
        data.append(f"fingerprint {facts['fingerprint']}")
    training = {"method": facts["method"], **{key: value for key, value in facts.items() if key not in KNOWN}}
    return TEMPLATE.format(
        license=_one_line(facts.get("license") or "other"),
        name=_one_line(facts["name"]),
        warning=SYNTHETIC if facts.get("synthetic") else "",
        pipeline="image-feature-extraction" if facts.get("images_alone") else "zero-shot-image-classification",
        summary=f"{'An image' if facts.get('images_alone') else 'A CLIP-like'} model {architecture}{teacher} with the method `{_one_line(facts['method'])}`.{size}",
        unlicensed="" if facts.get("license") else UNLICENSED,
        scores=_bullets(_score_lines(facts["scores"])),
        training=_bullets([f"{key}: {value}" for key, value in training.items()]),
        data=_bullets(data),
        command=str(facts["command"]).strip(),
        library=(library := facts.get("library", "open_clip")),
        use=_use(library, facts),
    )


def _use(library: str, facts: Mapping[str, Any]) -> str:
    """The lines that open the model; inside its folder, where open_clip looks for a text encoder's config from there."""
    lines = USE[library].replace("{cls}", str(facts.get("class", "AutoModel")))
    return INSIDE + lines.replace("PATH", ".") if facts.get("encoder") else lines


def _score_lines(scores: Mapping[str, float] | Sequence[str]) -> Sequence[str]:
    if not isinstance(scores, Mapping):
        return scores
    return [
        f"{name}: {value:g}" if name.endswith("medr") else f"{name}: {100 * value:.2f} %"
        for name, value in scores.items()
    ]


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_one_line(line)}" for line in lines)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
