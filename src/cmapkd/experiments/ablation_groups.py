"""The arms of each ablation group: CMAPKD with one thing changed per arm."""

from __future__ import annotations

from pathlib import Path

from msgspec import structs

from cmapkd.core.errors import UsageError
from cmapkd.core.types import IMAGE_LEVELS, TEXT_LEVELS
from cmapkd.experiments.arms import Arm
from cmapkd.methods import METHODS
from cmapkd.methods.pyramid import RELATIONS

HOLDOUT = 0.05
PYRAMID = ("intra_v", "intra_l", "pyramid_align")
WITH_RELATIONS = {f"share.{term}": share for term, share in RELATIONS.items()}
DESIGN = ("pyramid", "policy", "losses", "progressive")
GROUPS = (*DESIGN, "robust", "sparse", "all")
FAULT = {"corrupt.level": "P3", "corrupt.share": 1.0}


def group_arms(group: str, cache: Path | None) -> list[Arm]:
    """The arms of a group, the full method first; cache: the folder beside which group `sparse` keeps its caches."""
    if group == "sparse":
        return sparse(cache)
    arms = {"pyramid": pyramid, "policy": policy, "losses": losses, "progressive": progressive, "robust": robust}
    if group not in arms:
        raise UsageError(f"ablate {group}: no such group; known: {', '.join(GROUPS)}")
    return arms[group]()


def pyramid() -> list[Arm]:
    """The recipe, then without the visual pyramid, the language hierarchy, or the cross-modal alignment."""
    return [
        Arm("recipe"),
        Arm("no_visual", {"weights.intra_v": 0.0, "schedule": _fading(TEXT_LEVELS)}, "no image level teaches"),
        Arm("no_language", {"weights.intra_l": 0.0, "schedule": _fading(IMAGE_LEVELS)}, "no text level teaches"),
        Arm("no_cross", {"weights.pyramid_align": 0.0}, "no level pairs: only_intra"),
    ]


def policy() -> list[Arm]:
    """One arm per policy. All arms hold out the same slice of the train split, whether they learn from it or not.

    The config's other policy settings (interval, cost, entropy) apply in every arm.
    """
    shallow = {"policy.weights": {"P2": 0.5, "P3": 0.75, "L1": 0.5, "L2": 0.75}}
    about = {"manual": "shallow levels at half and three quarters"}
    names = ("uniform", "manual", "random", "veto", "gating", "routing", "rl")
    return [
        Arm(
            name,
            {"data.holdout": HOLDOUT, "policy.name": name, **(shallow if name == "manual" else {})},
            about.get(name, ""),
        )
        for name in names
    ]


def robust() -> list[Arm]:
    """The policies with one worthless level: P3's targets belong to other samples. The first arm has no fault."""
    clean = Arm("clean", policy()[0].update, "uniform, without the fault")
    return [clean, *(Arm(arm.name, {**arm.update, **FAULT}, arm.about) for arm in policy() if arm.name != "manual")]


def losses() -> list[Arm]:
    """The recipe, all seven terms, one family of pyramid terms or none, and the recipe without icl."""
    return [
        Arm("recipe"),
        Arm("seven_terms", WITH_RELATIONS, "with both relations: cmapkd_full"),
        Arm("final_only", _only(), "align + logits + fd + icl: clip_kd"),
        Arm("only_intra", _only("intra_v", "intra_l")),
        Arm("only_align", _only("pyramid_align"), "the recipe without its intra-modal terms"),
        Arm("only_relation", {**_only(), **WITH_RELATIONS}),
        Arm("no_icl", {"weights.icl": 0.0}),
    ]


def progressive() -> list[Arm]:
    """One arm per schedule: one, two and three stages, the design's four, the reverse order, and fading levels."""
    names = ("all_on", "two_stage", "coarse_to_fine", "design", "fine_to_coarse", "all_then_drop", "all_then_anneal")
    return [Arm(name, {"schedule": name}) for name in names]


def sparse(cache: Path | None) -> list[Arm]:
    """Stored parts of P2–P4: the whole grid, 4 × 4 cells, or 16 key tokens (sampled, or the top 16). A cache per arm."""
    if cache is None:
        raise UsageError(
            "ablate sparse: compares caches, but cache.path is not set; set it: the arms' caches lie beside it"
        )
    kept = {"whole": {}, "pooled": {"cache.grid": 4}, "key_tokens": {"cache.tokens": 16},
            "top_tokens": {"cache.tokens": 16, "cache.sampling": "topk"}}  # fmt: skip
    base = {"cache.grid": None, "cache.tokens": None, "cache.sampling": "pps"}
    return [
        Arm(name, {**base, **keys, "cache.path": cache.with_name(f"{cache.name}-{name}")})
        for name, keys in kept.items()
    ]


def _only(*kept: str) -> dict[str, object]:
    return {f"weights.{term}": 0.0 for term in PYRAMID if term not in kept}


def _fading(levels: tuple[str, ...]) -> list[dict[str, object]]:
    """The method's own schedule with only these levels."""
    return [{**structs.asdict(stage), "levels": levels} for stage in METHODS["cmapkd"].stages]
