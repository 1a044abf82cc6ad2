"""Model card: what a model is, what it was trained on and by which command, how well it does. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cmapkd.core.errors import UsageError

REQUIRED = ("name", "license", "method", "data", "scores", "command")

TEMPLATE = """---
license: {license}
library_name: open_clip
pipeline_tag: zero-shot-image-classification
tags: [clip, knowledge-distillation, cmapkd]
---

# {name}

{warning}{summary}

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
import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:PATH")
tokenizer = open_clip.get_tokenizer("local-dir:PATH")
```
"""


def model_card(facts: Mapping[str, Any]) -> str:
    """Markdown with YAML front matter.

    facts: name, license, method, command (str); data (lines with fingerprints); scores (lines as `Score.line()` gives
    them, provenance included); optional: teacher, student, params, synthetic (bool), training (key → value).
    Raises UsageError naming the facts that are missing.
    """
    missing = [key for key in REQUIRED if not facts.get(key)]
    if missing:
        raise UsageError(f"model card: {', '.join(missing)} missing; a card without them tells too little to publish")
    architecture = f"`{facts['student']}` " if facts.get("student") else ""
    teacher = f"distilled from `{facts['teacher']}`" if facts.get("teacher") else "trained without a teacher"
    size = f" It has {facts['params'] / 1e6:.1f} M parameters." if facts.get("params") else ""
    warning = (
        "> **Trained or evaluated on synthetic data.** Its scores say nothing about photographs.\n\n"
        if facts.get("synthetic")
        else ""
    )
    return TEMPLATE.format(
        license=_one_line(facts["license"]),
        name=_one_line(facts["name"]),
        warning=warning,
        summary=f"A CLIP-like model {architecture}{teacher} with the method `{facts['method']}`.{size}",
        scores=_bullets(facts["scores"]),
        training=_bullets([f"{key}: {value}" for key, value in {"method": facts["method"], **facts.get("training", {})}.items()]),
        data=_bullets(facts["data"]),
        command=str(facts["command"]).strip(),
    )


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_one_line(line)}" for line in lines)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
