"""The place of a process is read from torchrun's variables, else from srun's; a half-set environment is refused."""

import pytest

from cmapkd.core.errors import UsageError
from cmapkd.distributed.place import Place, first_node, place_of

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "gpu1",
            "MASTER_PORT": "29500"}  # fmt: skip
SRUN = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "gpu[03-04,9]",
        "SLURM_JOB_ID": "41234", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}  # fmt: skip


def test_without_a_launcher_a_process_is_alone():
    assert place_of({}) == Place() and place_of({}).world == 1


def test_torchrun_says_the_place():
    assert place_of(TORCHRUN) == Place(3, 8, 1, 2, "gpu1", 29500)
    assert place_of(place_of(TORCHRUN).environment()) == place_of(TORCHRUN)


def test_srun_says_the_place_and_all_meet_on_the_first_node():
    assert place_of(SRUN) == Place(5, 8, 1, 4, "gpu03", 21234)
    assert place_of(TORCHRUN | SRUN).rank == 3


def test_a_batch_script_that_calls_no_srun_is_one_process():
    assert place_of({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}) == Place()


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu1", "gpu1"), ("a[3-5]", "a3"), ("a[03,07]", "a03"), ("n1,n2", "n1"), ("r[1-2]-ib,x", "r1-ib")],
)
def test_the_first_node_of_a_list(nodes, first):
    assert first_node(nodes) == first


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set, though WORLD_SIZE is 8"),
        ({"RANK": "8"}, "RANK is 8, but WORLD_SIZE is 8"),
        ({"RANK": "one"}, "RANK is 'one'"),
    ],
)
def test_a_half_set_environment_is_refused(change, said):
    with pytest.raises(UsageError, match=said):
        place_of(TORCHRUN | change)
