"""Config: every key of a config file, with its type, default and rule. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from cmapkd.config import names
from cmapkd.config.section import Decay, Fraction, Level, Positive, Section, Weight
from cmapkd.config.sources import CacheConfig, DataConfig, StudentConfig, TowerConfig

HOLDOUT = "holdout"  # as val: score on a share of the images of train, held out from training
if TYPE_CHECKING:
    Metric = EvalTask = LossName = str
else:
    Metric = Literal[tuple(names.metrics())]
    EvalTask = Literal[names.tasks("evaluate")]
    LossName = Literal[names.task_losses()]


class StageConfig(Section, frozen=True, kw_only=True):
    """One stage of training: its end, the levels that teach, the scale of each term, and what the policy does.

    until: end of the stage, as a fraction of the run. scale: factors of single terms. anneal: all but the final terms
    fade to zero towards the end of the stage (cosine). lr: factor of the learning rate. policy: weigh levels uniformly, or let
    the policy act. trainable: train everything, or the adapters only.
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
    """The policy that weighs each level for each sample: uniform, manual (by `weights`), random, or one that learns from
    held-out pairs (veto, gating, routing, rl; these need data.holdout).

    every: steps between credit events. collect: share of the run in which weights are uniform and credits are collected.
    lr: learning rate of the policy. entropy: τ, strength of the pull towards uniform weights. cost: λ_c, reward lost per
    unit of a level's bytes (1 unit is an average level). floor: mean weight below which a level counts as unused; after
    `patience` events in a row it sleeps: it is neither computed nor read, and is measured again every `probe` events.
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

    def __post_init__(self) -> None:
        for modality, levels in (("image", ("P2", "P3", "P4", "P5")), ("text", ("L1", "L2", "L3", "L4"))):
            if all(self.weights.get(name, 1.0) == 0 for name in levels):  # type: ignore[call-overload]
                raise ValueError(
                    f"weights: all {modality} levels ({levels[0]}-{levels[-1]}) are 0; leave one above 0, or take them out of every "
                    "stage with schedule: [{name: all, until: 1.0, levels: […]}]"
                )


class CorruptConfig(Section, frozen=True, kw_only=True):
    """A planted fault, for experiments on policies.

    level: for a `share` of the samples, the targets of this level and its row of the bridge are those of other samples
    (needs a cache). captions: share of the samples whose captions are those of other samples, for student and teacher.
    """

    level: Level | None = None
    share: Fraction = 1.0
    captions: Fraction = 0.0


class TrainConfig(Section, frozen=True, kw_only=True):
    """Optimisation: length, batch, learning rate, precision, checkpoints.

    accumulate: number of parts in which a batch is computed; the loss stays that of the whole batch. warmup: share of the
    steps with a rising learning rate. ema: decay of an exponential moving average of the student's weights, which is validated
    and written instead of the last ones; 0 is off. compile: on compiles the blocks of the towers (torch.compile).
    checkpoint_activations: recompute the towers' blocks in the backward pass, which takes less memory and more time. clip: largest gradient norm. centre: subtract the mean image embedding from the
    written student where that raises the recall of training images (train/validation/centre.py). precision: auto is bf16 on a GPU
    that computes in it, else fp32. keep: number of checkpoints kept. threads: CPU threads of torch. track: tools that
    also receive the rows of metrics.jsonl. devices: number of processes that are started, each with a GPU of its own where
    there are GPUs; torchrun or srun decide it instead where they start them. timeout: seconds that one process waits for another
    before the run ends.
    """

    steps: Annotated[int, Meta(ge=1)] | None = None
    epochs: Positive | None = None
    batch: Annotated[int, Meta(ge=2)] = 128
    accumulate: Annotated[int, Meta(ge=1)] = 1
    lr: Positive = 1e-3
    weight_decay: Weight = 0.1
    warmup: Fraction = 0.05
    clip: Positive = 1.0
    ema: Decay = 0.0
    compile: Literal["off", "on"] = "off"
    checkpoint_activations: bool = False
    centre: bool = True
    betas: tuple[Decay, Decay] = (0.9, 0.98)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    checkpoint_every: Annotated[int, Meta(ge=1)] = 100
    keep: Annotated[int, Meta(ge=1)] = 2
    threads: Annotated[int, Meta(ge=1)] | None = None
    device: str = "auto"
    devices: Annotated[int, Meta(ge=1)] = 1
    timeout: Annotated[float, Meta(ge=1)] = 300.0
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
    """Raise ValueError for a val_split beside val: holdout; `train_split` names the split whose share is held out."""
    if val == HOLDOUT and val_split is not None:
        raise ValueError(f"val is {HOLDOUT}, a share of train, which has no split '{val_split}'; drop val_split")


class Config(Section, frozen=True, kw_only=True):
    """One run. `method` names a weighted list of terms; `weights` and `share` override its numbers.

    share: target ratio of a term's trunk-gradient norm to that of the final terms, calibrated during the run. weights: a
    fixed weight, which turns the calibration of that term off. options: options of single terms, such as
    `{logits: {temperature: 2}}`; the page of each method lists its own. schedule: a named schedule, a list of stages,
    or nothing for the method's own (usually all levels throughout).
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
