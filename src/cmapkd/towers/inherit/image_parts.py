"""ImageParts: one view of a plain ViT for all libraries: patches, positions, extra tokens, blocks, pooling and head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from cmapkd.towers.inherit.head import Head, head_of
from cmapkd.towers.inherit.maps import bare
from cmapkd.towers.inherit.parts import BlockParts, parts_of
from cmapkd.towers.inherit.probe import ProbeParts, hugging_face_probe, timm_probe
from cmapkd.towers.protocols import ImageTower


@dataclass(frozen=True)
class ImageParts:
    """Views of a ViT's parameters.

    patches: the convolution that cuts them; positions: [p + h², k] or, where the extra tokens have none, [h², k];
    extra: class and register tokens [p, k], a list of views; before: the norm before the blocks; modules, blocks: each
    block and its parts; last: the last norm; pooled: `first` (the class token), `mean` (of the patches) or `probe`;
    after: whether the last norm follows the pooling; probe: the attention that pools.
    """

    patches: nn.Conv2d
    positions: Tensor
    extra: list[Tensor]
    before: nn.LayerNorm | None
    modules: list[nn.Module]
    blocks: list[BlockParts]
    last: nn.LayerNorm
    pooled: str
    after: bool
    probe: ProbeParts | None
    head: Head

    @property
    def width(self) -> int:
        return self.patches.out_channels

    def pool(self, stream: Tensor) -> Tensor:
        """The pooled vector [n, k] of the stream after the blocks, with a last norm without scale and bias."""
        stream = stream[:, :1] if self.pooled == "first" else stream[:, len(self.extra) :]
        if self.after:
            return bare(stream.mean(1), self.last.eps)
        return bare(stream, self.last.eps).mean(1)


def image_parts(tower: ImageTower) -> ImageParts | None:
    """The parts of a ViT, None for an image tower of another kind."""
    visual: Any = tower.native
    if hasattr(visual, "transformer") and hasattr(visual, "class_embedding"):
        return _open_clip(visual)
    if hasattr(visual, "vision"):
        return _hugging_face(visual.vision, visual.projection, getattr(visual, "pooled", "pooler"))
    trunk = getattr(visual, "trunk", visual)
    return _timm(trunk, visual) if hasattr(trunk, "patch_embed") and hasattr(trunk, "blocks") else None


def _open_clip(visual: Any) -> ImageParts | None:
    blocks = parts_of(visual.transformer.resblocks)
    if blocks is None or visual.attn_pool is not None or visual.pool_type not in ("tok", "avg"):
        return None
    head = Head(weight=None if visual.proj is None else visual.proj.detach())
    before = visual.ln_pre if isinstance(visual.ln_pre, nn.LayerNorm) else None
    return ImageParts(visual.conv1, visual.positional_embedding.detach(), [visual.class_embedding.detach()], before,
                      list(visual.transformer.resblocks), blocks, visual.ln_post,
                      "first" if visual.pool_type == "tok" else "mean", visual.final_ln_after_pool, None, head)  # fmt: skip


def _timm(trunk: Any, visual: Any) -> ImageParts | None:
    blocks, patches = parts_of(trunk.blocks), getattr(trunk.patch_embed, "proj", None)
    pooled = {"token": "first", "avg": "mean", "map": "probe"}.get(getattr(trunk, "global_pool", ""))
    if blocks is None or pooled is None or not isinstance(patches, nn.Conv2d):
        return None
    norms = [m for m in (trunk.norm, getattr(trunk, "fc_norm", None)) if isinstance(m, nn.LayerNorm)]
    head = head_of([trunk.head, *(_steps(visual.head) if visual is not trunk else [])])
    if len(norms) != 1 or head is None or getattr(trunk, "pos_embed", None) is None:
        return None
    probe = timm_probe(trunk.attn_pool) if pooled == "probe" else None
    if pooled == "probe" and probe is None:
        return None
    tokens = [t.detach()[0] for t in (trunk.cls_token, getattr(trunk, "reg_token", None)) if t is not None]
    before = trunk.norm_pre if isinstance(trunk.norm_pre, nn.LayerNorm) else None
    extra = [row for token in tokens for row in token]
    return ImageParts(patches, trunk.pos_embed.detach()[0], extra, before, list(trunk.blocks), blocks, norms[0],
                      pooled, norms[0] is not trunk.norm, probe, head)  # fmt: skip


def _steps(head: nn.Module) -> list[nn.Module | None]:
    """The modules of a timm adapter's head in their order, those of its Mlp one by one."""
    steps: list[Any] = []
    for step in head.children():
        steps += [step.fc1, step.act, step.fc2] if hasattr(step, "fc1") else [step]
    return steps


def _hugging_face(vision: Any, projection: nn.Module | None, pooled: str) -> ImageParts | None:
    """Of transformers' CLIP and SigLIP."""
    into: Any = getattr(vision, "embeddings", None)
    encoder: Any = getattr(vision, "encoder", None)
    blocks = parts_of(getattr(encoder, "layers", ()))
    positions, last = getattr(into, "position_embedding", None), getattr(vision, "post_layernorm", None)
    if blocks is None or not isinstance(positions, nn.Embedding) or last is None or pooled == "first":
        return None
    if not isinstance(into.patch_embedding, nn.Conv2d):
        return None
    token = getattr(into, "class_embedding", None)
    probe = None if token is not None else hugging_face_probe(getattr(vision, "head", None))
    head = head_of([projection])
    if head is None or (token is None and probe is None):
        return None
    before = getattr(vision, "pre_layrnorm", None) or getattr(vision, "pre_layernorm", None)
    return ImageParts(into.patch_embedding, positions.weight.detach(), [] if token is None else [token.detach().view(-1)],
                      before, list(encoder.layers), blocks, last, "probe" if token is None else "first",
                      token is not None, probe, head)  # fmt: skip
