"""CachedTeacher: the teacher read from its store."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cmapkd.core.tree import move
from cmapkd.core.types import IMAGE_LEVELS, TEXT_LEVELS, Batch, LogitScale, Needs, Pair, TeacherOutputs, Tokens
from cmapkd.pyramid.maps import MAPS
from cmapkd.store.store import Store

MASKED = ("L1", "L2")


class CachedTeacher:
    """Reads rows; a level that is not asked for is not read. The tower is never built.

    text: None for a teacher without a text tower. device: where outputs go, as they are stored; int8 becomes float32 there,
    at a quarter of the bytes to copy.
    """

    needs_inputs = False

    def __init__(self, image: Store, text: Store | None, views: int, similarity: LogitScale, side: int = 0) -> None:
        self.image, self.text, self.views, self.similarity, self.side = image, text, views, similarity, side
        self.device = torch.device("cpu")
        self._steps: dict[tuple[str, str], Tensor] = {}

    def outputs(self, batch: Batch, needs: Needs) -> TeacherOutputs:
        rows = Pair((batch.samples * self.views + batch.views).cpu().numpy(), batch.captions.cpu().numpy())
        stores = Pair(self.image, self.text).zip(rows)
        levels = self._image_levels(needs.levels, rows.image) | self._text_levels(needs.levels, rows.text)
        bridge = None
        if needs.bridge or needs.teacher_bridge:
            bridge = stores.map(lambda pair: self._bridge(*pair))
        final = stores.map(lambda pair: self._final(*pair))
        return TeacherOutputs(
            final, self.similarity, levels, bridge, read=self._bytes(len(batch), levels, bridge is not None)
        )

    def _final(self, store: Store | None, rows: np.ndarray) -> Tensor:
        return torch.zeros(len(rows), 0, device=self.device) if store is None else self._floats(store, "final", rows)

    def _bridge(self, store: Store | None, rows: np.ndarray) -> Tensor:
        """Rows in the shared space, zeros where the teacher has no levels."""
        if store is None or "bridge" not in store.fields:
            return torch.zeros(len(rows), *self.image.fields["bridge"].shape, device=self.device)
        return self._floats(store, "bridge", rows)

    def _image_levels(self, wanted: Iterable[str], rows: np.ndarray) -> dict[str, Tokens]:
        names = [name for name in IMAGE_LEVELS if name in wanted]
        places = None
        if "places" in self.image.fields and set(names) & set(MAPS):
            places = self._raw(self.image, "places", rows).long()
        out = {name: Tokens(self._floats(self.image, name, rows)) for name in names}
        if places is None:
            return out
        return {k: replace(v, places=places, side=self.side) if k in MAPS else v for k, v in out.items()}

    def _text_levels(self, wanted: Iterable[str], rows: np.ndarray) -> dict[str, Tokens]:
        if self.text is None:
            return {}
        text, names = self.text, [name for name in TEXT_LEVELS if name in wanted]
        masks = {k: self._raw(text, f"{k}-mask", rows).bool() for k in MASKED if k in names}
        return {k: Tokens(self._floats(text, k, rows), masks.get(k)) for k in names}

    def _bytes(self, rows: int, levels: dict[str, Tokens], bridge: bool) -> int:
        """Bytes of `rows` records; counted from the layout, since batches are read ahead by another thread."""
        names = {"final", *levels, *(f"{name}-mask" for name in levels)} | ({"bridge"} if bridge else set())
        if any(tokens.places is not None for tokens in levels.values()):
            names.add("places")
        stores = [store for store in (self.image, self.text) if store is not None]
        return rows * sum(field.nbytes for store in stores for name, field in store.fields.items() if name in names)

    def _raw(self, store: Store, field: str, rows: np.ndarray) -> Tensor:
        return move(torch.from_numpy(store.read(field, rows)), self.device)

    def _floats(self, store: Store, field: str, rows: np.ndarray) -> Tensor:
        """float32; int8 records times their channels' steps."""
        values, scale = self._raw(store, field, rows).float(), store.fields[field].scale
        if scale is None:
            return values
        key = (str(store.path), field)
        if key not in self._steps:
            self._steps[key] = torch.from_numpy(scale).to(self.device)
        return values.mul_(self._steps[key])
