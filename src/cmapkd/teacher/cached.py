"""CachedTeacher: the teacher read from its store."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from cmapkd.core.types import IMAGE_LEVELS, TEXT_LEVELS, Batch, Pair, Teaching
from cmapkd.pyramid.targets import SPATIAL
from cmapkd.store.store import Store

MASKED = ("L1", "L2")


class CachedTeacher:
    """Reads rows; a level that is not asked for is not read. The tower is never built.

    device: where teachings go, as they are stored; int8 becomes float32 there, at a quarter of the bytes to copy.
    """

    needs_inputs = False

    def __init__(self, image: Store, text: Store, views: int, scale: float, side: int = 0) -> None:
        self.image, self.text, self.views, self.scale, self.side = image, text, views, scale, side
        self.device = torch.device("cpu")
        self._steps: dict[tuple[str, str], Tensor] = {}

    def teach(self, batch: Batch, levels: Iterable[str], bridge: bool = True) -> Teaching:
        rows = Pair((batch.samples * self.views + batch.views).cpu().numpy(), batch.captions.cpu().numpy())
        wanted = set(levels)
        out = {k: self._floats(self.image, k, rows.image) for k in IMAGE_LEVELS if k in wanted}
        out |= {k: self._floats(self.text, k, rows.text) for k in TEXT_LEVELS if k in wanted}
        masks = {k: self._raw(self.text, f"{k}-mask", rows.text).bool() for k in MASKED if k in wanted}
        stores = Pair(self.image, self.text).zip(rows)
        nothing = torch.empty(0)
        shared = stores.map(lambda pair: self._floats(pair[0], "bridge", pair[1]) if bridge else nothing)
        final = stores.map(lambda pair: self._floats(pair[0], "final", pair[1]))
        places = None
        if "places" in self.image.fields and wanted & set(SPATIAL):
            places = self._raw(self.image, "places", rows.image).long()
        read = self._bytes(len(batch), {*out, *masks, "final"} | ({"bridge"} if bridge else set()), places is not None)
        return Teaching(out, masks, shared, final, self.scale, places, self.side, read=read)

    def _bytes(self, rows: int, levels: set[str], places: bool) -> int:
        """Bytes of `rows` records; counted from the layout, since batches are read ahead by another thread."""
        asked = {"image": levels | ({"places"} if places else set()), "text": {f"{k}-mask" for k in levels} | levels}
        stores = {"image": self.image, "text": self.text}
        return rows * sum(
            f.nbytes for which, store in stores.items() for k, f in store.fields.items() if k in asked[which]
        )

    def _raw(self, store: Store, field: str, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(store.read(field, rows)).to(self.device)

    def _floats(self, store: Store, field: str, rows: np.ndarray) -> Tensor:
        """float32; int8 records times their channels' steps."""
        values, scale = self._raw(store, field, rows).float(), store.fields[field].scale
        if scale is None:
            return values
        key = (str(store.path), field)
        if key not in self._steps:
            self._steps[key] = torch.from_numpy(scale).to(self.device)
        return values.mul_(self._steps[key])
