"""The check that all processes of a run have the same config, versions and data."""

from __future__ import annotations

import torch

import cmapkd
from cmapkd.config.load import dump_config
from cmapkd.config.schema import Config
from cmapkd.core.errors import CmapkdError, IntegrityError, UsageError
from cmapkd.data.samples import Samples
from cmapkd.distributed.collectives import values_of_all
from cmapkd.distributed.group import rank, world
from cmapkd.train.runs.folder import leaves


def refuse_differences(config: Config) -> None:
    """Raise UsageError, in every process, that names the first difference between a process and the first one."""
    if world() == 1:
        return
    versions = {"cmapkd": cmapkd.__version__, "torch": torch.__version__}
    _compare("version of ", [dict(row) for row in values_of_all(versions)], UsageError, "install the same everywhere")
    _compare(
        "", [dict(row) for row in values_of_all(leaves(dump_config(config)))], UsageError, "give all the same config"
    )


def refuse_other_data(samples: Samples) -> None:
    """Raise IntegrityError, in every process, where one of them read other data."""
    if world() == 1:
        return
    facts = {"number of images": str(len(samples)), "ids, captions and sizes of images": samples.fingerprint()[:16]}
    _compare("data: ", values_of_all(facts), IntegrityError, "give all the same files")


def _compare(what: str, rows: list[dict[str, str]], kind: type[CmapkdError], way_out: str) -> None:
    for other, row in enumerate(rows):
        wrong = [key for key in {**rows[0], **row} if row.get(key) != rows[0].get(key)]
        if wrong:
            error = kind(
                f"rank {other}: {what}{wrong[0]} is {row.get(wrong[0], 'not set')}, but {rows[0].get(wrong[0], 'not set')} in "
                f"rank 0; {way_out}"
            )
            error.told = rank() > 0
            raise error
