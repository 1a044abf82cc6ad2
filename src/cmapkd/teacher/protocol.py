"""Teacher: who can say what the teacher gives for a batch, whether it runs now or was stored."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from cmapkd.core.types import Batch, Teaching


class Teacher(Protocol):
    """Whoever can say the teaching of a batch. `needs_inputs`: whether batches must carry the teacher's own pixels."""

    needs_inputs: bool

    def teach(self, batch: Batch, levels: Iterable[str], bridge: bool) -> Teaching: ...
