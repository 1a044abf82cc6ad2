"""Every key a config file may hold, with its type, default and rule. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, Struct

from cmapkd.config import names

HOLDOUT = "holdout"  # as `val`: score on a share of the images of `train`, which is kept from training
Level = Literal["P2", "P3", "P4", "P5", "L1", "L2", "L3", "L4"]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Decay = Annotated[float, Meta(ge=0.0, lt=1.0)]
Positive = Annotated[float, Meta(gt=0.0)]
Weight = Annotated[float, Meta(ge=0.0)]
if TYPE_CHECKING:
    Metric = EvalTask = LossName = str
else:
    Metric = Literal[tuple(names.metrics())]
    EvalTask = Literal[names.tasks("evaluate")]
    LossName = Literal[names.task_losses()]


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """Keys with their types and rules; `__post_init__` raises ValueError where they do not go together."""


class DataConfig(Section, frozen=True, kw_only=True):
    """Where the image-text pairs are and how an image becomes a view.

    train, val: a captions file, an image folder, tar shards (`{00000..00010}.tar`), a Hugging Face data set on disk, or
    `scenes:N` for the built-in world of N images; `cmapkd data inspect` tells which.
    images: the folder that image names are relative to (default: found beside the captions file).
    train_split, val_split: which split of a file that holds several (Karpathy) or a split list file (Flickr).
    regions: each region of Visual Genome is a sample of its own, cropped; otherwise its phrases are captions of the image.
    views: how many replayable augmentations of each image exist; view v of image i is the same pixels in every
    epoch, so that cached teacher features fit it.
    """

    train: str
    val: str | None = None
    images: Path | None = None
    format: Literal[
        "auto", "coco", "karpathy", "flickr", "csv", "folder", "webdataset", "visual_genome", "hf", "scenes"
    ] = "auto"
    train_split: str | None = None
    val_split: str | None = None
    image_key: str = "filepath"
    text_key: str = "title"
    separator: str | None = None
    classes: Path | None = None
    regions: bool = False
    views: Annotated[int, Meta(ge=1, le=64)] = 4
    crop: tuple[Fraction, Fraction] = (0.6, 1.0)
    flip: bool = False
    bad_budget: Fraction = 0.001
    ram_mb: Annotated[int, Meta(ge=0)] = 1024
    holdout: Annotated[float, Meta(ge=0.0, lt=0.5)] = 0.0

    def __post_init__(self) -> None:
        low, high = self.crop
        if not 0 < low <= high:
            raise ValueError(
                f"crop is [{low:g}, {high:g}], the least and the greatest share of the area; e.g. [0.6, 1]"
            )


class TowerConfig(Section, frozen=True, kw_only=True):
    """A CLIP-like model: an open_clip name, a shipped small name, `local-dir:PATH`, or a checkpoint path.

    weights: local checkpoint for a named architecture (safetensors, open_clip `.pt`, OpenAI's `.pt`).
    tokenizer: `own` (the architecture's), `teacher`, `train:N` (a BPE of N entries learnt on the train
    captions), or a folder with a tokenizer.json.
    """

    model: str
    weights: Path | None = None
    tokenizer: str = "own"


class StudentConfig(TowerConfig, frozen=True, kw_only=True):
    """The model that is trained.

    inherit: it begins as the least-squares image of the teacher (towers/inherit.py) instead of at random, where both
    are open_clip transformers; for texts with the teacher's tokenizer. Fitted once, and kept in the cache. `scratch`
    begins at random all the same.
    """

    inherit: bool = False


class CacheConfig(Section, frozen=True, kw_only=True):
    """The teacher's stored features. Without `path` the teacher runs live in every step.

    rank: kept principal components per level (a power of 2). grid: side that spatial levels are pooled to
    before storing; none keeps the teacher's own grid. tokens: instead of a grid, keep this many key tokens of P2-P4
    with their places. sampling: which ones: a systematic sample in proportion to their likeness to the summary (pps,
    unbiased, a sample of its own for each view), or always the likest (topk).
    ensemble: finished caches of further teachers over the same data and views, for methods that read several (mobileclip_dr).
    pixels: also keep every view's pixels at the student's size, 3 bytes a pixel, so that training decodes no image.
    """

    path: Path | None = None
    rank: Annotated[int, Meta(ge=2, le=4096)] = 256
    grid: Annotated[int, Meta(ge=1, le=64)] | None = None
    tokens: Annotated[int, Meta(ge=1, le=4096)] | None = None
    sampling: Literal["pps", "topk"] = "pps"
    ensemble: tuple[Path, ...] = ()
    dtype: Literal["int8", "fp16"] = "int8"
    pixels: bool = False
    calibration_samples: Annotated[int, Meta(ge=16)] = 2048
    shard_rows: Annotated[int, Meta(ge=1)] = 4096
    words: Annotated[int, Meta(ge=1, le=256)] = 24

    def __post_init__(self) -> None:
        if self.rank & (self.rank - 1):
            raise ValueError(f"rank is {self.rank}, but must be a power of 2 (Hadamard rotation); try 128 or 256")
        if self.grid is not None and self.tokens is not None:
            raise ValueError("grid and tokens are two ways to keep less of a map; give one of them")
        if self.ensemble and self.path is None:
            raise ValueError("ensemble names further caches, but path is not set; set cache.path to the first one")


class StageConfig(Section, frozen=True, kw_only=True):
    """A stretch of training: up to which fraction, which levels teach, how terms are scaled, what the policy does.

    anneal: levels and cross-modal terms fade to zero towards the end of the stage (cosine).
    """

    name: str
    until: Fraction
    levels: tuple[Level, ...] = ("P2", "P3", "P4", "P5", "L1", "L2", "L3", "L4")
    scale: dict[str, Weight] = {}
    anneal: bool = False
    lr: Positive = 1.0
    policy: Literal["uniform", "act"] = "act"
    trainable: Literal["all", "adapters"] = "all"


class PolicyConfig(Section, frozen=True, kw_only=True):
    """Who decides how strongly each level teaches each sample: uniform, manual (by `weights`), random, or a policy that
    learns from held-out pairs (veto, gating, routing, rl; they need data.holdout).

    every: steps between credit events. collect: share of the run with uniform weights while credits are gathered.
    entropy: τ, the pull towards uniform. cost: λ_c, reward lost per unit of a level's bytes (1 unit: an average level).
    floor: mean weight under which a level counts as unused; after `patience` events in a row it sleeps, that is, it is
    neither computed nor read, and every `probe` events it is measured again.
    """

    name: str = "uniform"
    weights: dict[Level, Weight] = {}
    every: Annotated[int, Meta(ge=1)] = 20
    collect: Fraction = 0.1
    lr: Positive = 1e-3
    entropy: Positive = 1.0
    cost: Weight = 0.0
    floor: Fraction = 0.05
    patience: Annotated[int, Meta(ge=1)] = 3
    probe: Annotated[int, Meta(ge=1)] = 5


class CorruptConfig(Section, frozen=True, kw_only=True):
    """A fault planted on purpose, to see what each policy does about it.

    level: its targets and its row of the bridge belong to other samples, for a `share` of the samples (needs a cache).
    captions: share of the samples whose captions are another sample's, for student and teacher alike.
    """

    level: Level | None = None
    share: Fraction = 1.0
    captions: Fraction = 0.0


class TrainConfig(Section, frozen=True, kw_only=True):
    """The optimisation. accumulate: parts that a batch is computed in; the loss stays that of the whole. track: tools that
    get the rows of metrics.jsonl, too. centre: the student that is written is without the mean of its image embeddings,
    where that raises the recall of train images (train/centre.py).
    """

    steps: Annotated[int, Meta(ge=1)] | None = None
    epochs: Positive | None = None
    batch: Annotated[int, Meta(ge=2)] = 128
    accumulate: Annotated[int, Meta(ge=1)] = 1
    lr: Positive = 1e-3
    weight_decay: Weight = 0.1
    warmup: Fraction = 0.05
    clip: Positive = 1.0
    centre: bool = True
    betas: tuple[Decay, Decay] = (0.9, 0.98)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    checkpoint_every: Annotated[int, Meta(ge=1)] = 100
    keep: Annotated[int, Meta(ge=1)] = 2
    threads: Annotated[int, Meta(ge=1)] | None = None
    device: str = "auto"
    track: tuple[Literal["tensorboard", "wandb"], ...] = ()

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs")


class EvalConfig(Section, frozen=True, kw_only=True):
    """Validation on data.val. every: steps between two; metric: of one of the tasks; the student that scores best by it
    is kept in best/. zeroshot: labelled images of the task zeroshot.
    """

    every: Annotated[int, Meta(ge=1)] | None = None
    metric: Metric = "mean_recall@1"
    tasks: tuple[EvalTask, ...] = ("retrieval",)
    zeroshot: str | None = None
    batch: Annotated[int, Meta(ge=1)] = 256

    def __post_init__(self) -> None:
        task = names.metrics()[self.metric]
        if self.every is not None and not self.metric.startswith(names.OWN_HEAD) and task not in self.tasks:
            first = names.main_metric((*self.tasks, "retrieval")[0])
            raise ValueError(
                f"metric {self.metric} is of {task}, which eval.tasks leaves out; set eval.metric: {first}"
            )


class TaskConfig(Section, frozen=True, kw_only=True):
    """The task loss L_task, where weights.task is above 0, and its own data.

    Without `train` it is classification by the labels of data.train. train, val, the splits, images, classes: as in
    `data`, of the task's own kind: captions (contrastive, captioning), an image folder (classification), VQA questions,
    COCO instances, or scenes:N. A batch of `batch` is drawn each step; `val` is scored at the end of the run, and
    `val: holdout` is a share `holdout` of the images of `train`, which are then not trained on.
    lr: peak rate of the task's head, train.lr unless given. width: of the head, its own default unless given.
    head, answers: of VQA: how image and question are fused, and the size of the answer vocabulary.
    """

    name: LossName = "classification"
    train: str | None = None
    val: str | None = None
    train_split: str | None = None
    val_split: str | None = None
    images: Path | None = None
    classes: Path | None = None
    holdout: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.3
    batch: Annotated[int, Meta(ge=2)] = 32
    lr: Positive | None = None
    width: Annotated[int, Meta(ge=4)] | None = None
    head: Literal["fusion", "coattention"] = "fusion"
    answers: Annotated[int, Meta(ge=1)] = 3129

    def __post_init__(self) -> None:
        if self.val is not None and self.train is None:
            raise ValueError("val scores what train teaches, but train is not set; set task.train or drop task.val")
        refuse_split_of_holdout(self.val, self.val_split)


def refuse_split_of_holdout(val: str | None, val_split: str | None) -> None:
    """Raise ValueError for val_split beside `val: holdout`, which is a share of train's split."""
    if val == HOLDOUT and val_split is not None:
        raise ValueError(f"val is {HOLDOUT}, a share of train, which has no split '{val_split}'; drop val_split")


class Config(Section, frozen=True, kw_only=True):
    """One run. `method` names a list of terms; `weights` and `share` override its numbers.

    share: a term's target ratio of trunk-gradient norm to the final terms' (calibrated during the run);
    weights: a fixed weight, which switches the calibration of that term off. options: switches of single terms, as
    `{logits: {temperature: 2}}`; each method's page names its own. schedule: a named order of the levels,
    a list of stages, or nothing for the method's own (all levels throughout, unless it says otherwise).
    """

    run: Path
    seed: int = 0
    method: str = "cmapkd"
    data: DataConfig
    student: StudentConfig
    teacher: TowerConfig | None = None
    cache: CacheConfig = CacheConfig()
    weights: dict[str, Weight] = {}
    share: dict[str, Weight] = {}
    options: dict[str, dict[str, float | str]] = {}
    policy: PolicyConfig = PolicyConfig()
    corrupt: CorruptConfig = CorruptConfig()
    schedule: str | tuple[StageConfig, ...] | None = None
    train: TrainConfig
    eval: EvalConfig = EvalConfig()
    task: TaskConfig = TaskConfig()
