"""Export of both towers as ONNX graphs of raw pixels and token ids, compared numerically with PyTorch."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmapkd.core import fsio
from cmapkd.core.errors import UsageError

NEEDED = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18


@dataclass(frozen=True)
class Exported:
    """One exported graph, and the difference of onnxruntime's embeddings from PyTorch's at another batch size."""

    path: Path
    max_difference: float
    min_cosine: float

    def line(self) -> str:
        return f"{self.path.name}: largest difference {self.max_difference:.2e}, smallest cosine {self.min_cosine:.7f}"


class ImageGraph(nn.Module):
    """The image tower: uint8 [n, 3, S, S] to normalised embeddings [n, E]; normalisation by mean and std is included."""

    def __init__(self, clip: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.clip: Any = clip
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255)

    def forward(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.clip.encode_image((pixels.float() - self.mean) / self.std), dim=-1)


class TextGraph(nn.Module):
    """The text tower: int64 [n, L] token ids to normalised embeddings [n, E]."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.clip: Any = clip

    def forward(self, ids: Tensor) -> Tensor:
        return F.normalize(self.clip.encode_text(ids), dim=-1)


def export_onnx(
    clip: nn.Module,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    image_size: int,
    context: int,
    vocabulary: int,
    folder: Path,
    tolerance: float = 1e-3,
) -> tuple[Exported, Exported]:
    """Write image.onnx and text.onnx, each compared with PyTorch through onnxruntime.

    vocabulary: number of token ids. tolerance: largest allowed difference of a component of a normalised embedding.
    Raises UsageError when a package is missing or a graph differs by more than `tolerance`.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"export to ONNX needs {', '.join(missing)}; install them with: pip install 'cmapkd[onnx]'")
    fsio.make_folder(folder)
    generator = torch.Generator().manual_seed(0)

    def pixels(n: int) -> Tensor:
        return torch.randint(0, 256, (n, 3, image_size, image_size), generator=generator, dtype=torch.uint8)

    def ids(n: int) -> Tensor:
        # The end token has the largest id; it comes last, so that pooling finds it as in real text.
        drawn = torch.randint(1, vocabulary - 1, (n, context), generator=generator)
        drawn[:, -1] = vocabulary - 1
        return drawn

    was_training, device = clip.training, next(clip.parameters()).device
    clip = clip.eval().cpu()
    try:
        with _exportable_attention():
            image = _export(ImageGraph(clip, mean, std).eval(), pixels, "pixels", folder / "image.onnx", tolerance)
            text = _export(TextGraph(clip).eval(), ids, "ids", folder / "text.onnx", tolerance)
    finally:
        clip.to(device).train(was_training)
    return image, text


def _export(graph: nn.Module, draw: Callable[[int], Tensor], name: str, path: Path, tolerance: float) -> Exported:
    import onnxruntime

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            graph, (draw(2),), dynamo=True, opset_version=OPSET, input_names=[name],
            output_names=[f"{path.stem}_embedding"],
            dynamic_shapes=({0: torch.export.Dim("n", min=1)},), verbose=False,
        )  # fmt: skip
        content = program.model_proto.SerializeToString()
        inputs = draw(3)
        expected = graph(inputs)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {name: inputs.numpy()})[0])
    measured = Exported(
        path, float((found - expected).abs().max()), float(F.cosine_similarity(found, expected, dim=-1).min())
    )
    if not measured.max_difference <= tolerance:
        raise UsageError(f"export to ONNX: {measured.line()}, more than {tolerance:g}; nothing written")
    fsio.write_bytes(path, content)
    return measured


@contextmanager
def _exportable_attention() -> Iterator[None]:
    """Disables fused attention, which has no ONNX operator, and silences the log of the exporter."""
    was, logger = torch.backends.mha.get_fastpath_enabled(), logging.getLogger("torch.onnx")
    level = logger.level
    torch.backends.mha.set_fastpath_enabled(False)
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)
        logger.setLevel(level)
