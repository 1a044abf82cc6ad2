"""POLICIES: who decides how strongly each pyramid level teaches each sample.

A policy is a module: forward(teaching, progress) gives level weights [B, 8] with mean 1 per modality (None: uniform)
and a coupling factor [B, 4, 4] (None: the bridge's own α). One that `learns` also has objective(teaching, progress,
credit); its optimizer and state are its own and travel in the checkpoint.
"""

from cmapkd.policy.fixed import Manual, Uniform
from cmapkd.policy.gating import Gating

POLICIES = {"uniform": Uniform, "manual": Manual, "gating": Gating}
