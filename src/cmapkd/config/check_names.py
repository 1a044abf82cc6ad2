"""Checks that every method, term, policy and schedule a config names exists, with a hint for each misspelt one."""

from __future__ import annotations

from collections.abc import Iterator

from cmapkd.config.names import methods, policies, terms
from cmapkd.config.schedules import schedule_errors
from cmapkd.config.schema import Config
from cmapkd.core.errors import did_you_mean


def name_errors(config: Config) -> Iterator[str]:
    """A line for each name that does not exist. Levels are checked by the schema itself."""
    if config.method not in methods():
        hint = did_you_mean(config.method, methods())
        yield f"method '{config.method}' is unknown; known: {', '.join(methods())}{hint}"
    for section in ("weights", "share", "options"):
        for term in getattr(config, section):
            if term not in terms():
                hint = did_you_mean(term, terms())
                yield f"{section}.{term}: no such term; known: {', '.join(terms())}{hint}"
    if (name := config.policy.name) not in policies():
        yield f"policy.name '{name}' is unknown; known: {', '.join(policies())}{did_you_mean(name, policies())}"
    if config.schedule is not None:
        yield from schedule_errors(config.schedule)
