"""The encoder that a run's validation scores: the student, or the student with its method's own tensors; and those tensors on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from cmapkd.config.load import load_config
from cmapkd.config.schema import Config
from cmapkd.core import fsio
from cmapkd.core.errors import IntegrityError, UsageError
from cmapkd.data.loader import read_images
from cmapkd.data.samples import Samples
from cmapkd.distributed.collectives import from_first
from cmapkd.export.run import METHOD_TENSORS
from cmapkd.methods import TERMS, resolve, served_term
from cmapkd.methods.method import Method
from cmapkd.methods.term import ServedTerm, TermSizes
from cmapkd.tasks.encoder import Encoder, spans
from cmapkd.tasks.validation import Validation, merged
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.load import load_tower
from cmapkd.train.learner import Learner
from cmapkd.train.validation.neighbours import Neighbours


@dataclass(frozen=True)
class Service:
    """The encoder that a run's scores belong to, where the student alone does not carry them. logits: of its own classifier.

    says: in words. classes: those of the training data, in the order of the logits.
    """

    encoder: Encoder
    says: str
    logits: Callable[[Tensor], Tensor] | None = None
    classes: tuple[str, ...] = ()


def validator(
    validation: Validation,
    method: Method,
    learner: Learner,
    teacher: DualEncoder | None,
    classes: Sequence[str] | None,
    config: Config,
) -> Callable[[], dict[str, float]]:
    """A function that gives the figures on the validation data; {} where there is none.

    teacher: None where it does not run. classes: the training classes in the order of the labels, None where there are none.
    """
    if "text" in learner.student.shape.sides:
        figures = _validator(validation, method, learner, teacher, classes)
    else:
        figures = Neighbours(validation, learner.student, teacher, config)

    def agreed() -> dict[str, float]:
        found = figures()  # embeds with the other processes of the run
        return from_first(lambda: found)

    return agreed


def _validator(
    validation: Validation, method: Method, learner: Learner, teacher: DualEncoder | None, classes: Sequence[str] | None
) -> Callable[[], dict[str, float]]:
    student = learner.student
    if method.served is None:
        return lambda: merged(validation.scores(student))
    assert teacher is not None, "a term that is served beside the student needs the teacher"
    term = learner.terms[method.served]
    assert isinstance(term, ServedTerm)
    service = serve(term, student, teacher, classes)
    labelled = labelled_alike(validation, service)
    if labelled is None:
        return lambda: merged(validation.scores(service.encoder))
    return lambda: (
        merged(validation.scores(service.encoder))
        | {"head/acc1": head_accuracy(service, labelled, student.size, validation.batch)}
    )


def serve(term: ServedTerm, student: DualEncoder, teacher: DualEncoder, classes: Sequence[str] | None) -> Service:
    """A method's result from the term that learnt beside the student."""
    logits = partial(term.logits, student) if classes and term.classifies else None
    return Service(term.encoder(student, teacher), term.says, logits, tuple(classes or ()))


def open_service(run: Path, student: DualEncoder) -> Service:
    """The encoder that a finished run's scores belong to, from its folder and its teacher.

    Raises UsageError where the teacher cannot be loaded, IntegrityError for tensors of another method.
    """
    config, path = load_config(run / "config.yaml"), run / "student" / METHOD_TENSORS
    method = resolve(config.method, config.weights, config.share)
    served = served_term(method)
    if served is None or config.teacher is None:
        raise IntegrityError(f"{path}: method '{config.method}' of {run / 'config.yaml'} has no such tensors")
    try:
        teacher = load_tower(config.teacher, words=config.cache.words)
    except UsageError as error:
        raise UsageError(
            f"{run}: its scores belong to {served.says}, and the teacher cannot be loaded ({error}); run this "
            f"where teacher.model of {run / 'config.yaml'} can be found, or score the student alone: {run / 'student'}"
        ) from None
    tensors, facts = read_method_tensors(path)
    sizes = TermSizes(student.shape, teacher.shape, facts["samples"], facts["classes"], teacher, student)
    terms = nn.ModuleDict({name: TERMS[name](sizes) for name in method.weights})
    try:
        terms.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise IntegrityError(
            f"{path}: does not fit method '{config.method}' ({reason[:160]}); train it again"
        ) from None
    term = terms.eval()[str(method.served)]
    assert isinstance(term, ServedTerm)
    return serve(term, student, teacher, facts["names"])


def labelled_alike(validation: Validation, service: Service) -> Samples | None:
    """The first validation data that the service's own classifier can be scored on."""
    return next((samples for samples in validation.samples.values() if classifies(service, samples)), None)


def classifies(service: Service, samples: Samples) -> bool:
    """Whether the samples' classes are among the training classes, by name, and there is a classifier of them."""
    known = samples.labels is not None and samples.classes and set(service.classes) >= set(samples.classes)
    return bool(service.logits is not None and known)


@torch.no_grad()
def head_accuracy(service: Service, samples: Samples, size: int, batch: int) -> float:
    """Share of the images whose highest logit is their own class; unlabelled ones are left out."""
    assert service.logits is not None and samples.labels is not None and samples.classes is not None
    place = torch.tensor([*(service.classes.index(name) for name in samples.classes), -1])
    truth = place[torch.tensor(list(samples.labels))]
    chunks = [service.logits(read_images(samples, span, size)).argmax(1).cpu() for span in spans(len(samples), batch)]
    known = truth >= 0
    return float((torch.cat(chunks) == truth)[known].double().mean())


def write_method_tensors(learner: Learner, folder: Path, samples: Samples, classes: int) -> Path:
    """Write the terms' own tensors beside the exported student, with the sizes that building them again takes.

    samples: the training data. classes: how many class texts the method knew, the data's own or pseudo-classes.
    """
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in learner.terms.state_dict().items()}
    names = samples.classes if samples.labels is not None else None
    facts = {"samples": len(samples), "classes": classes, "names": names}
    fsio.write_bytes(folder / METHOD_TENSORS, save(tensors, metadata={"format": "pt", "sizes": json.dumps(facts)}))
    return folder / METHOD_TENSORS


def read_method_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, {samples, classes, names}) as they were written. Raises IntegrityError."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("sizes", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise IntegrityError(f"{path}: cannot be read ({error}); train the run again") from None
    if facts is None:
        raise IntegrityError(f"{path}: says no sizes, so it is of an earlier version of cmapkd; train the run again")
    return tensors, facts
