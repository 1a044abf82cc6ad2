"""TrainedHead: a task's head with its score and its results, and the folder that keeps it beside its tower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from cmapkd.core import fsio
from cmapkd.tasks.result_file import ResultRow, write_results
from cmapkd.tasks.score import Score, without_nan
from cmapkd.towers.dual import DualEncoder


@dataclass(frozen=True)
class TrainedHead:
    """A trained head. score: on the validation data, None without any. results: rows of its result file.

    words: the texts that the weights index: the answers of a VQA head, the tokens of a captioner, the classes of a
    detector. losses: of every training step of a frozen probe. A task without a head has `head` None.
    """

    head: nn.Module | None
    score: Score | None = None
    results: Sequence[ResultRow] = ()
    words: dict[str, Any] = field(default_factory=dict)
    losses: Sequence[float] = ()

    @property
    def metrics(self) -> dict[str, float | None]:
        """Fractions by metric, None where the data cannot give one; {} without a score."""
        return {} if self.score is None else without_nan(self.score.metrics)

    @property
    def said(self) -> str:
        """The score in a line; empty without one."""
        return "" if self.score is None else self.score.line()


def write_head(task: str, done: TrainedHead, data: Mapping[str, Any], out: Path) -> None:
    """Write head.safetensors and head.json; results.json and, last, scores.json where it was scored. Raises DiskError.

    data: what it was trained and scored on, as plain values. The tower's own tensors are not written.
    """
    assert done.head is not None, "a task without a head leaves none"
    out.mkdir(parents=True, exist_ok=True)
    fsio.write_bytes(out / "head.safetensors", save(own_tensors(done.head), metadata={"format": "pt", "task": task}))
    fsio.write_json(out / "head.json", {"task": task, **done.words})
    if done.metrics:
        write_results(out / "results.json", done.results)
        facts = {"task": task, "metrics": done.metrics, "said": done.said, "data": dict(data)}
        fsio.write_json(out / "scores.json", facts)


def own_tensors(head: nn.Module) -> dict[str, Tensor]:
    """The head's state on the CPU, without that of a tower inside it."""
    inside = tuple(f"{name}." for name, module in head.named_modules() if isinstance(module, DualEncoder))
    state = {name: tensor for name, tensor in head.state_dict().items() if not name.startswith(inside)}
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
