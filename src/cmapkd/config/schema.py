"""Config: every key of a config file, with its type, default and rule. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from cmapkd.config.section import Decay, Fraction, Level, Positive, Section, Weight
from cmapkd.config.sources import CacheConfig, DataConfig, StudentConfig, TowerConfig

HOLDOUT = "holdout"  # as val: score on a share of the images of train, which is kept from training
Metric = Literal[  # of a validation, more is better
    "mean_recall@1", "mean_recall", "image_retrieval_recall@1", "image_retrieval_recall@5", "image_retrieval_recall@10",
    "text_retrieval_recall@1", "text_retrieval_recall@5", "text_retrieval_recall@10",
    "zeroshot/acc1", "zeroshot/acc5", "zeroshot/mean_per_class_recall", "head/acc1",
]  # fmt: skip


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
    """Validation on data.val. every: steps between two; metric: by which best/ is chosen, of one of the tasks."""

    every: Annotated[int, Meta(ge=1)] | None = None
    metric: Metric = "mean_recall@1"
    tasks: tuple[Literal["retrieval", "zeroshot"], ...] = ("retrieval",)
    zeroshot: str | None = None
    batch: Annotated[int, Meta(ge=1)] = 256

    def __post_init__(self) -> None:
        task = "retrieval" if "recall@" in self.metric or self.metric == "mean_recall" else "zeroshot"
        if self.every is not None and self.metric != "head/acc1" and task not in self.tasks:
            first = {"retrieval": "mean_recall@1", "zeroshot": "zeroshot/acc1"}[(*self.tasks, "retrieval")[0]]
            raise ValueError(
                f"metric {self.metric} is of {task}, which eval.tasks leaves out; set eval.metric: {first}"
            )


class TaskConfig(Section, frozen=True, kw_only=True):
    """What L_task is, where weights.task is above 0, and the data that it has for itself.

    Without `train` it is classification by the labels of data.train. train, val, the splits, images, classes: as in
    `data`, of the task's own kind: captions (contrastive, captioning), an image folder (classification), VQA questions,
    COCO instances, or scenes:N. A batch of `batch` is drawn each step; `val` is scored when the run ends, and holdout as
    val is a share `holdout` of the images of `train`, which are then not trained on.
    lr: peak rate of the task's head, train.lr unless given. width: of the head, its own default unless given.
    head, answers: of VQA, what fuses image and question, and how many answers there are to choose from.
    """

    name: Literal["contrastive", "classification", "vqa", "detection", "captioning"] = "classification"
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
    """Raise ValueError for a split of a share: `train_split` is what says which split it is a share of."""
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
