"""Export of a model's towers as ONNX graphs of raw pixels and token ids, compared numerically with PyTorch."""

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
from cmapkd.towers.dual import DualEncoder

NEEDED = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18
WORDS = ("a", "photo", "of", "two", "small", "red", "dogs", "beside", "the", "tree", "and", "house")


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

    def __init__(self, tower: DualEncoder) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.tower.image.encode(self.tower.normalise(pixels)), dim=-1)


class TextGraph(nn.Module):
    """The text tower: int64 [n, L] token ids to normalised embeddings [n, E]."""

    def __init__(self, tower: DualEncoder) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, ids: Tensor) -> Tensor:
        return F.normalize(self.tower.text.encode(ids), dim=-1)


def export_onnx(tower: DualEncoder, folder: Path, tolerance: float = 1e-3) -> tuple[Exported, ...]:
    """Write image.onnx, and text.onnx of a model that has texts, each compared with PyTorch through onnxruntime.

    tolerance: largest allowed difference of a component of a normalised embedding.
    Raises UsageError when a package is missing, a tower cannot be traced, or a graph differs by more than `tolerance`.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"export to ONNX needs {', '.join(missing)}; install them with: pip install 'cmapkd[onnx]'")
    fsio.make_folder(folder)
    generator = torch.Generator().manual_seed(0)
    size = tower.size

    def pixels(n: int) -> Tensor:
        return torch.randint(0, 256, (n, 3, size, size), generator=generator, dtype=torch.uint8)

    def ids(n: int) -> Tensor:
        lengths = torch.randint(1, tower.tokenizer.context, (n,), generator=generator).tolist()
        drawn = [torch.randint(len(WORDS), (length,), generator=generator).tolist() for length in lengths]
        return tower.tokenizer([" ".join(WORDS[k] for k in row) for row in drawn])[0]

    was_training, device = tower.training, tower.device
    tower = tower.eval().cpu()
    try:
        with _exportable_attention():
            found = [_export(ImageGraph(tower).eval(), pixels, "pixels", folder / "image.onnx", tolerance)]
            if "text" in tower.shape.sides:
                found.append(_export(TextGraph(tower).eval(), ids, "ids", folder / "text.onnx", tolerance))
    finally:
        tower.to(device).train(was_training)
    return tuple(found)


def _export(graph: nn.Module, draw: Callable[[int], Tensor], name: str, path: Path, tolerance: float) -> Exported:
    inputs = draw(3)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        expected = graph(inputs)
        try:
            content = _traced(graph, draw(2), name, f"{path.stem}_embedding")
            found = _run(content, name, inputs)
        except Exception as error:  # exporter and onnxruntime raise many kinds, one inside the other
            reason = " ".join(str(error).split())[:160]
            raise UsageError(
                f"export to ONNX: the {path.stem} tower cannot be traced for batches of any size ({type(error).__name__}: "
                f"{reason}); nothing written"
            ) from None
    measured = Exported(
        path, float((found - expected).abs().max()), float(F.cosine_similarity(found, expected, dim=-1).min())
    )
    if not measured.max_difference <= tolerance:
        raise UsageError(f"export to ONNX: {measured.line()}, more than {tolerance:g}; nothing written")
    fsio.write_bytes(path, content)
    return measured


def _traced(graph: nn.Module, inputs: Tensor, name: str, output: str) -> bytes:
    program: Any = torch.onnx.export(
        graph, (inputs,), dynamo=True, opset_version=OPSET, input_names=[name], output_names=[output],
        dynamic_shapes=({0: torch.export.Dim("n", min=1)},), verbose=False,
    )  # fmt: skip
    return program.model_proto.SerializeToString()


def _run(content: bytes, name: str, inputs: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {name: inputs.numpy()})[0])


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
