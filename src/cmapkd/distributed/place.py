"""Place of this process among the processes of a run, as torchrun, SLURM or `--devices` give it in the environment. No torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cmapkd.core.errors import UsageError

PORTS = range(20_000, 40_000)  # of which a SLURM job takes one by its number
TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Place:
    """rank of `world` processes; local_rank of `local_world` on this machine; address and port at which rank 0 is met."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    address: str = "127.0.0.1"
    port: int = 0

    def environment(self) -> dict[str, str]:
        """The variables of torchrun that say this place."""
        return {
            "RANK": str(self.rank), "WORLD_SIZE": str(self.world), "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_world), "MASTER_ADDR": self.address, "MASTER_PORT": str(self.port),
        }  # fmt: skip


def place_of(environment: Mapping[str, str] = os.environ) -> Place:
    """The place that torchrun's variables say, else those of `srun`; alone without either. Raises UsageError."""
    if "WORLD_SIZE" in environment and "RANK" in environment:
        return _of_torchrun(environment)
    if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in environment:
        return _of_slurm(environment)
    return Place()


def _of_torchrun(environment: Mapping[str, str]) -> Place:
    world = _number(environment, "WORLD_SIZE", "1")
    if world > 1 and (lost := [name for name in TORCHRUN if not environment.get(name)]):
        raise UsageError(
            f"{lost[0]} is not set, though WORLD_SIZE is {world}; start the processes with torchrun, or unset WORLD_SIZE"
        )
    rank = _number(environment, "RANK", "0")
    if not 0 <= rank < world:
        raise UsageError(f"RANK is {rank}, but WORLD_SIZE is {world}; start the processes with torchrun")
    return Place(
        rank, world, _number(environment, "LOCAL_RANK", str(rank)), _number(environment, "LOCAL_WORLD_SIZE", "1"),
        environment.get("MASTER_ADDR", "127.0.0.1"), _number(environment, "MASTER_PORT", "0"),
    )  # fmt: skip


def _of_slurm(environment: Mapping[str, str]) -> Place:
    """A step of `srun`: rank 0 is met on the first node of the step, at a port that the job's number decides."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "127.0.0.1")
    job = _number(environment, "SLURM_JOB_ID", "0")
    port = _number(environment, "MASTER_PORT", str(PORTS[job % len(PORTS)]))
    here = re.match(r"\d+", environment.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    return Place(
        _number(environment, "SLURM_PROCID", "0"), _number(environment, "SLURM_STEP_NUM_TASKS", "1"),
        _number(environment, "SLURM_LOCALID", "0"), int(here[0]) if here else 1,
        environment.get("MASTER_ADDR") or first_node(nodes), port,
    )  # fmt: skip


def first_node(nodes: str) -> str:
    """The first host of a SLURM list: `gpu[03-05,9],cpu1` begins with `gpu03`."""
    name = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\])?([^,]*)", nodes)
    return "".join(part or "" for part in name.groups()) if name else nodes


def _number(environment: Mapping[str, str], name: str, default: str) -> int:
    text = environment.get(name, default)
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{name} is '{text}', which is no whole number; start the processes with torchrun") from None
