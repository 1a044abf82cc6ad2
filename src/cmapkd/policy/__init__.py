"""POLICIES: who decides how strongly each pyramid level teaches each sample.

uniform, manual and random learn nothing; veto, gating, routing and rl learn from the credit of each level on held-out
pairs. Their state travels in the checkpoint, and their draws are their own.
"""

from cmapkd.policy.base import Credit, Policy
from cmapkd.policy.fixed import Manual, Random, Uniform
from cmapkd.policy.gating import Gating
from cmapkd.policy.rl import RL
from cmapkd.policy.routing import Routing
from cmapkd.policy.veto import Veto

POLICIES: dict[str, type[Policy]] = {
    "uniform": Uniform, "manual": Manual, "random": Random, "veto": Veto, "gating": Gating, "routing": Routing, "rl": RL,
}  # fmt: skip

__all__ = ["POLICIES", "Credit", "Policy"]
