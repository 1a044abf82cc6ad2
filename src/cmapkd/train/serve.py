"""What a run's validation scores: the student, or what its method makes of the student; and the tensors that takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from cmapkd.config.schema import Config
from cmapkd.core import fsio
from cmapkd.data.loader import read_images
from cmapkd.data.samples import Samples
from cmapkd.export.run import METHOD_TENSORS
from cmapkd.methods.term import Method
from cmapkd.models.tower import Tower
from cmapkd.tasks.encoder import spans
from cmapkd.tasks.validation import Validation, merged, open_validation
from cmapkd.train.learner import Learner


def validator(
    config: Config, method: Method, learner: Learner, teacher: Tower | None, classes: Sequence[str] | None
) -> Callable[[], dict[str, float]]:
    """A function that gives the figures on the config's validation data; {} where there is none.

    classes: the training classes in the order of the labels, None where there are none.
    """
    validation, served, student = open_validation(config), method.served, learner.student
    if served is None:
        return lambda: merged(validation.scores(student))
    assert teacher is not None, "what a method serves beside its student needs the teacher"
    parts = dict(learner.parts.items())
    encoder = served.encoder(parts, student, teacher)
    labelled = None if served.head is None or classes is None else labelled_alike(validation, classes)
    if served.head is None or classes is None or labelled is None:
        return lambda: merged(validation.scores(encoder))
    logits = partial(served.head, parts, student)
    return lambda: (
        merged(validation.scores(encoder))
        | {"head/acc1": head_accuracy(logits, labelled, classes, student.size, validation.batch)}
    )


def labelled_alike(validation: Validation, classes: Sequence[str]) -> Samples | None:
    """The first validation data whose classes are among the training classes, by name."""
    known = set(classes)
    found = (s for s in validation.samples.values() if s.labels is not None and s.classes and known >= set(s.classes))
    return next(found, None)


@torch.no_grad()
def head_accuracy(
    logits: Callable[[Tensor], Tensor], samples: Samples, classes: Sequence[str], size: int, batch: int
) -> float:
    """Share of the images whose highest logit is their own class; unlabelled ones are left out."""
    assert samples.labels is not None and samples.classes is not None
    place = torch.tensor([*(list(classes).index(name) for name in samples.classes), -1])
    truth = place[torch.tensor(samples.labels)]
    chunks = [logits(read_images(samples, span, size)).argmax(1).cpu() for span in spans(len(samples), batch)]
    known = truth >= 0
    return float((torch.cat(chunks) == truth)[known].double().mean())


def write_method_tensors(learner: Learner, folder: Path) -> Path:
    """The terms' own parts beside the exported student."""
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in learner.parts.state_dict().items()}
    fsio.write_bytes(folder / METHOD_TENSORS, save(tensors, metadata={"format": "pt"}))
    return folder / METHOD_TENSORS
