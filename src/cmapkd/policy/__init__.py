"""POLICIES: level weights for each sample, decided by a policy. Every file of this package brings its own.

uniform, manual and random learn nothing; veto, gating, routing and rl learn from the credit of each level on held-out
pairs. Their state is part of the checkpoint, and their random draws are their own.
"""

from __future__ import annotations

from cmapkd.core.registry import collected
from cmapkd.policy.base import Credit, Policy

POLICIES: dict[str, type[Policy]] = collected(__name__, __path__, "POLICIES", first=("uniform", "manual", "random"))

__all__ = ["POLICIES", "Credit", "Policy"]
