"""METHODS and TERMS: every file of this package brings its own; adding a method costs nothing but its file.

A method is a named list of terms with weights; an ablation is a method with a term less.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from cmapkd.core.errors import UsageError, did_you_mean
from cmapkd.core.registry import collected
from cmapkd.methods.method import Method
from cmapkd.methods.term import Input, ServedTerm, Term

TERMS: dict[str, type[Term]] = collected(__name__, __path__, "TERMS")
METHODS: dict[str, Method] = dict(
    sorted(collected(__name__, __path__, "METHODS").items(), key=lambda method: (method[0] != "scratch", method[0]))
)
FINAL = frozenset(name for name, term in TERMS.items() if term.final)


def reading(what: Input, terms: Iterable[str]) -> frozenset[str]:
    """Those of `terms` that read `what`."""
    return frozenset(name for name in terms if what in TERMS[name].reads)


def needs_teacher(terms: Iterable[str]) -> bool:
    """Whether any of `terms` reads the teacher."""
    return any(TERMS[name].reads_teacher() for name in terms)


def reads_levels(terms: Iterable[str]) -> bool:
    """Whether any of `terms` reads levels of the pyramid."""
    return any(TERMS[name].reads_levels() for name in terms)


def served_term(method: Method) -> type[ServedTerm] | None:
    """The term whose modules belong to the method's result beside the student, if there is one."""
    if method.served is None:
        return None
    term = TERMS[method.served]
    assert issubclass(term, ServedTerm)
    return term


def resolve(name: str, weights: dict[str, float], share: dict[str, float]) -> Method:
    """The method with the config's numbers in it. Unknown names raise UsageError with the nearest right one."""
    if name not in METHODS:
        raise UsageError(f"method '{name}' is unknown; known: {', '.join(METHODS)}{did_you_mean(name, METHODS)}")
    base = METHODS[name]
    for where, numbers in (("weights", weights), ("share", share)):
        for term in numbers:
            if term not in TERMS:
                raise UsageError(f"{where}.{term}: no such term; known: {', '.join(TERMS)}{did_you_mean(term, TERMS)}")
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
    return replace(base, weights=merged, share={term: value for term, value in shares.items() if value > 0})


def check_options(options: Mapping[str, Mapping[str, float | str]], terms: Iterable[str]) -> None:
    """Raise UsageError for a switch of a term that is not among `terms`, or a value that the switch cannot take."""
    for term, switches in options.items():
        if term not in terms:
            raise UsageError(f"options.{term}: the method has no such term; its terms: {', '.join(terms)}")
        known = TERMS[term].options
        for name, value in switches.items():
            if name not in known:
                names = ", ".join(known) or "none"
                raise UsageError(f"options.{term}.{name}: no such switch; known: {names}{did_you_mean(name, known)}")
            allowed = known[name]
            if isinstance(allowed, tuple):
                if value not in allowed:
                    raise UsageError(f"options.{term}.{name}: '{value}' is none of {', '.join(allowed)}")
            elif isinstance(value, str) or not value > 0:
                raise UsageError(f"options.{term}.{name}: '{value}' must be a number above 0")
