"""One thread (small tensors on many threads are far slower), and every shape annotation checked while tests run."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts; processes that tests start inherit it

import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)

# Kept in a name for the whole run: the hook lives as long as this object. It must stand before the first import of
# the packages that it checks.
SHAPES_CHECKED = install_import_hook(["cmapkd.losses", "cmapkd.models"], "beartype.beartype")
