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

    device: where outputs go, as they are stored; int8 becomes float32 there, at a quarter of the bytes to copy.
    """

    needs_inputs = False

    def __init__(self, image: Store, text: Store, views: int, similarity: LogitScale, side: int = 0) -> None:
        self.image, self.text, self.views, self.similarity, self.side = image, text, views, similarity, side
        self.device = torch.device("cpu")
        self._steps: dict[tuple[str, str], Tensor] = {}

    def outputs(self, batch: Batch, needs: Needs) -> TeacherOutputs:
        rows = Pair((batch.samples * self.views + batch.views).cpu().numpy(), batch.captions.cpu().numpy())
        stores = Pair(self.image, self.text).zip(rows)
        levels = self._image_levels(needs.levels, rows.image) | self._text_levels(needs.levels, rows.text)
        bridge = None
        if needs.bridge or needs.teacher_bridge:
            bridge = stores.map(lambda pair: self._floats(pair[0], "bridge", pair[1]))
        final = stores.map(lambda pair: self._floats(pair[0], "final", pair[1]))
        return TeacherOutputs(
            final, self.similarity, levels, bridge, read=self._bytes(len(batch), levels, bridge is not None)
        )

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
        masks = {k: self._raw(self.text, f"{k}-mask", rows).bool() for k in MASKED if k in wanted}
        return {k: Tokens(self._floats(self.text, k, rows), masks.get(k)) for k in TEXT_LEVELS if k in wanted}

    def _bytes(self, rows: int, levels: dict[str, Tokens], bridge: bool) -> int:
        """Bytes of `rows` records; counted from the layout, since batches are read ahead by another thread."""
        names = {"final", *levels, *(f"{name}-mask" for name in levels)} | ({"bridge"} if bridge else set())
        if any(tokens.places is not None for tokens in levels.values()):
            names.add("places")
        stores = (self.image, self.text)
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
