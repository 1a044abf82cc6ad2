"""The commented config that `cmapkd init` writes. Imports no torch."""

from __future__ import annotations

import json

NOTHING_YET = """data:
  train: {data}
  # val: PATH                  # without it there is no score during training
  # images: FOLDER             # the images, when they are not beside the captions file"""

STARTER = """\
# A distillation run. Check it with:   cmapkd distill --config {name} --dry-run
# Any key can be set for one run only: cmapkd distill --config {name} train.lr=3e-4
run: runs/first                # the run folder; a new run never overwrites an old one
seed: 0
method: cmapkd                 # cmapkd list methods

{data}
  views: 4                     # fixed augmentations of each image; each is one row in the cache

teacher:
  model: ViT-L-14              # an open_clip name, shipped:scenes-teacher, or local-dir:FOLDER
  # weights: FILE              # a local .safetensors or .pt checkpoint: without it the weights are random

student:
  model: ViT-B-32              # cmapkd list towers
  tokenizer: teacher           # own, teacher, train:N, or a folder with a tokenizer.json
  # inherit: true              # initialise from the teacher's weights, where both are open_clip transformers

cache:
  path: data/cache/first       # the teacher runs once; without a path it runs in every step
  grid: 4                      # spatial levels are pooled to 4×4 before they are stored

train:
  epochs: 10                   # or steps: N
  batch: 256
  accumulate: 1                # splits a batch that does not fit into memory; the loss stays that of the whole
  lr: 5e-4

eval:
  every: 500                   # steps
"""


def starter(data: str, name: str, found: str | None = None) -> str:
    """The YAML of a first run on the captions in `data`, to be saved as `name`.

    found: the `data` section, where an inspection of the data has produced one.
    """
    plain = NOTHING_YET.format(data=json.dumps(data, ensure_ascii=False))
    return STARTER.format(data=found or plain, name=name)
