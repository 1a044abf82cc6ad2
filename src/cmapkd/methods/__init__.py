"""METHODS: a method is a named list of terms with weights; an ablation is a method with a term less."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field

from cmapkd.core.errors import UsageError
from cmapkd.methods.terms import FINAL, NEEDS_TEACHER, TERMS


@dataclass(frozen=True)
class Method:
    """weights: each term's fixed weight. share: the target ratio of a term's trunk gradient to the final terms';
    where a share stands, the weight is only what the term starts with until it is calibrated.
    """

    weights: dict[str, float]
    share: dict[str, float] = field(default_factory=dict)
    about: str = ""

    @property
    def needs_teacher(self) -> bool:
        return bool(set(self.weights) & NEEDS_TEACHER)


FINAL_TERMS = {"align": 1.0, "logits": 1.0, "fd": 8.0}

METHODS: dict[str, Method] = {
    "scratch": Method({"align": 1.0}, about="contrastive training without a teacher; trains teachers too"),
    "kd": Method({"align": 1.0, "logits": 1.0}, about="logit distillation (Hinton et al. 2015) on CLIP's logits"),
    "fd": Method({"align": 1.0, "fd": 8.0}, about="final-embedding mimicry, the strongest single term of CLIP-KD"),
    "clip_kd": Method({**FINAL_TERMS, "icl": 1.0}, about="CLIP-KD's recipe: align + logits (CRD) + fd + icl"),
    "cmapkd": Method(
        {**FINAL_TERMS, "intra_v": 10.0, "intra_l": 10.0, "pyramid_align": 1.0, "relation": 1.0, "layer_relation": 0.5},
        {"intra_v": 0.5, "intra_l": 0.5, "pyramid_align": 0.15, "relation": 0.1, "layer_relation": 0.05},
        about="the final terms plus the pyramid at three levels: intra-modal, cross-modal, relational",
    ),
}


def resolve(name: str, weights: dict[str, float], share: dict[str, float]) -> Method:
    """The method with the config's numbers in it. Unknown names raise UsageError with the nearest right one."""
    if name not in METHODS:
        raise UsageError(f"method '{name}' is unknown; known: {', '.join(METHODS)}{_near(name, METHODS)}")
    base = METHODS[name]
    for where, numbers in (("weights", weights), ("share", share)):
        for term in numbers:
            if term not in TERMS:
                raise UsageError(f"{where}.{term}: no such term; known: {', '.join(TERMS)}{_near(term, TERMS)}")
    for term in share:
        if term in FINAL:
            raise UsageError(f"share.{term}: final terms are what shares are measured against; set weights.{term}")
    merged = {term: value for term, value in {**base.weights, **weights}.items() if value > 0}
    for term in share:
        merged.setdefault(term, 1.0)
    shares = {term: value for term, value in {**base.share, **share}.items() if term in merged and term not in weights}
    merged = {term: value for term, value in merged.items() if shares.get(term, 1.0) > 0}
    if not set(merged) & FINAL:
        raise UsageError(f"method '{name}' is left without a final term; keep one of {', '.join(sorted(FINAL))}")
    return Method(merged, {term: value for term, value in shares.items() if value > 0}, base.about)


def _near(name: str, known: dict) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean '{near[0]}'?)" if near else ""
