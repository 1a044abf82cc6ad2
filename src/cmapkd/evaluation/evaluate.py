"""`cmapkd eval`: score any model or run folder on any data; teacher and student are scored by the same code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from msgspec import structs

from cmapkd.config.load import load_config
from cmapkd.config.schema import Config, DataConfig, TowerConfig
from cmapkd.config.suite import ScoredData
from cmapkd.core import fsio
from cmapkd.core.errors import UsageError, did_you_mean
from cmapkd.data.readers import open_samples
from cmapkd.data.samples import Samples
from cmapkd.export.run import METHOD_TENSORS
from cmapkd.tasks.agreement import score_agreement
from cmapkd.tasks.encoder import Encoder
from cmapkd.tasks.score import Score
from cmapkd.tasks.table import TASKS, chosen_protocol, evaluate
from cmapkd.tasks.validation import open_task
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.load import load_tower
from cmapkd.towers.named import identity
from cmapkd.train.validation.served import Service, classifies, head_accuracy, open_service


@dataclass(frozen=True)
class Subject:
    """A model to be scored. tower: the model that heads are trained on; service: what a run's scores belong to instead.

    weights: the hash of its weights, `random` for an architecture without weights.
    """

    name: str
    tower: DualEncoder
    weights: str
    service: Service | None = None
    notes: tuple[str, ...] = ()

    @property
    def encoder(self) -> Encoder:
        return self.tower if self.service is None else self.service.encoder

    def score(self, samples: Samples, task: str, protocol: str | None = None) -> Score:
        """The task's figures, and `head/acc1` where the run's method has a classifier of these classes."""
        score = evaluate(self.encoder, samples, task, protocol=protocol, checkpoint=self.name)
        score = replace(score, notes=(*self.notes, *score.notes))
        if self.service is None or task != "zeroshot" or not classifies(self.service, samples):
            return score
        own = head_accuracy(self.service, samples, self.tower.size, batch=256)
        return replace(score, metrics={**score.metrics, "head/acc1": own})


def evaluate_folder(
    model: str,
    data: ScoredData | None,
    tasks: Sequence[str],
    config: Config | None = None,
    protocols: Sequence[str] = (),
    per_class: bool = False,
    out: Path | None = None,
    teacher: str | None = None,
) -> None:
    """Score `model` (a run folder, a model's folder, `teacher` with a config, or any model name); print each line.

    data: default: the config's own validation data, and without a config that of the run. protocols: each goes to the
    task that has it. out: a JSON file of all scores. teacher: also print the model's agreement with this one.
    """
    chosen = choose_protocols(tasks, protocols)
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise UsageError(f"eval --out {out}: is a folder, or in a folder that does not exist; give a new JSON file")
    own = Path(model) / "config.yaml"
    of_run = load_config(own) if config is None and own.is_file() else config
    config = of_run if data is None else config
    if data is None and config is None:
        raise UsageError("eval: on what data? give --data PATH, or --config with data.val")
    subject, scores = open_subject(model, config), []
    if "text" not in subject.tower.shape.sides:
        raise UsageError(
            f"eval {model}: it has no text tower, so it embeds no texts, and {', '.join(chosen)} compares images with texts; give a "
            "model with both towers"
        )
    other = None if teacher is None else open_subject(teacher, of_run)
    for task, protocol in chosen.items():
        samples = _data_of(task, data, config)
        score = subject.score(samples, task, protocol)
        print("\n".join([score.line(), *(score.extremes() if per_class else [])]), flush=True)
        scores.append(score.to_json())
    if other is not None:
        samples = _data_of(next(iter(chosen)), data, config)
        score = replace(score_agreement(subject.encoder, other.encoder, samples, other.name), checkpoint=model)
        print(score.line(), flush=True)
        scores.append(score.to_json())
    if out is not None:
        fsio.write_json(out, scores)


def choose_protocols(tasks: Sequence[str], protocols: Sequence[str]) -> dict[str, str]:
    """Task → protocol. Raises UsageError for an unknown task, and for a protocol that no task or a named one has."""
    chosen = {task: chosen_protocol(task, None) for task in tasks}
    named: dict[str, str] = {}
    for protocol in protocols:
        task = next((task for task in chosen if protocol in TASKS[task].protocols), None)
        if task is None:
            known = "; ".join(f"{task} has {', '.join(TASKS[task].protocols)}" for task in chosen)
            near = did_you_mean(protocol, (name for task in chosen for name in TASKS[task].protocols))
            raise UsageError(f"eval --protocol {protocol}: none of these tasks has it; {known}{near}")
        if task in named:
            raise UsageError(f"eval --protocol {protocol}: {task} has one already, {named[task]}; give one a task")
        named[task] = protocol
    return chosen | named


def open_scored(data: ScoredData, config: Config | None = None) -> Samples:
    """The samples of an entry. Keys that it does not set are the config's; the split only for the config's own data."""
    base = DataConfig(train=data.data) if config is None else config.data
    given = {key: value for key in ("images", "classes") if (value := getattr(data, key)) is not None}
    split = data.split or (base.val_split if data.data == base.val else None)
    return open_samples(data.data, structs.replace(base, **given), split)


def open_subject(model: str, config: Config | None = None) -> Subject:
    """The model, with the parts of its method beside it where the run's result is more than the student."""
    run, given = Path(model), config_of(model, config)
    tower, weights = open_model(model, config), identity(given)["weights"]
    if (run / "student" / METHOD_TENSORS).is_file() and (run / "config.yaml").is_file():
        service = open_service(run, tower)
        return Subject(model, tower, weights, service, (f"of {service.says}",))
    notes = ()
    if (run / METHOD_TENSORS).is_file():
        notes = ("the student alone, which its run's scores do not describe",)
    elif weights == "random":
        notes = ("RANDOM WEIGHTS: an architecture without a checkpoint",)
    return Subject(model, tower, weights, notes=notes)


def open_model(model: str, config: Config | None = None) -> DualEncoder:
    """A run folder's student, a model's folder, a model name, or `teacher` of a config."""
    given = config_of(model, config)
    return load_tower(given, words=config.cache.words) if model == "teacher" and config else load_tower(given)


def config_of(model: str, config: Config | None = None) -> TowerConfig:
    """The tower config that `model` names. Raises UsageError for `teacher` without a config, and for an unfinished run."""
    if model == "teacher":
        if config is None or config.teacher is None:
            raise UsageError("eval teacher: needs --config with teacher.model")
        return config.teacher
    run = Path(model)
    if (run / "student").is_dir():
        return TowerConfig(model=f"local-dir:{run / 'student'}")
    if (run / "config.yaml").is_file():
        raise UsageError(f"run {model}: has no finished student; train it, or go on with --resume")
    return TowerConfig(model=model)


def _data_of(task: str, data: ScoredData | None, config: Config | None) -> Samples:
    """The given data, or the config's own validation data of the task."""
    if data is not None:
        return open_scored(data, config)
    assert config is not None, "without data there is a config"
    return open_task(task, config.data, config.eval)
