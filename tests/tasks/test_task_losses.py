"""L_task on data of its own, head by head: it learns, its gradient reaches the student, its batches are f(seed, step)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from msgspec import structs

import world
from cmapkd.config.schema import TowerConfig
from cmapkd.core.errors import DataError, UsageError
from cmapkd.methods import METHODS
from cmapkd.tasks import open_task_loss as opening
from cmapkd.tasks.open_task_loss import HostRun, open_task_loss
from cmapkd.tasks.table import LOSSES
from cmapkd.tasks.task_loss import TaskLoss, task_loss
from cmapkd.towers.dual import DualEncoder
from cmapkd.towers.load import load_tower

TRAIN = {
    "contrastive": "scenes:12:7", "classification": "scenes:objects:1:train", "vqa": "scenes:12:train",
    "detection": "scenes:12:train", "captioning": "scenes:12:train",
}  # fmt: skip
BOTH_TOWERS = ("contrastive", "classification", "vqa")


def settings(root: Path, name: str, **over):
    task = {"name": name, "train": TRAIN[name], "batch": 6, "width": 32}
    return world.config(root, weights={"task": 1.0}, task={**task, **over.pop("task", {})}, **over)


def host(config, weighted: bool = True) -> HostRun:
    trains = METHODS[config.method].student == "trained"
    return HostRun(config.method, config.seed, config.eval.batch, "task" in config.weights, weighted, trains)


def made(root: Path, name: str, **over) -> tuple[DualEncoder, TaskLoss]:
    config = settings(root, name, **over)
    student = load_tower(TowerConfig(model=str(root / "student-init")))
    task = open_task_loss(config.task, config.data, host(config))
    assert task is not None
    return student.train(), task(student)


def learnt(student: DualEncoder, head: TaskLoss) -> list[torch.nn.Parameter]:
    return [*student.parameters(), *([] if head.module is None else head.module.parameters())]


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return same(vars(a), vars(b)) if hasattr(a, "__dict__") else a == b


@pytest.mark.parametrize("name", LOSSES)
def test_every_task_loss_falls(root, name):
    student, head = made(root, name, task={"answers": 20})
    optimizer = torch.optim.Adam(learnt(student, head), lr=2e-3)
    batches, losses = [head.batch(k) for k in range(2)], []
    for step in range(40):
        optimizer.zero_grad()
        loss = task_loss(head, student, batches[step % 2], torch.float32)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-2:]) < 0.75 * sum(losses[:2])


@pytest.mark.parametrize("name", [*LOSSES, "coattention"])
def test_the_gradient_reaches_the_towers_and_all_of_the_head(root, name):
    task = {"head": "coattention"} if name == "coattention" else {}
    name = "vqa" if task else name
    student, head = made(root, name, task=task)
    task_loss(head, student, head.batch(0), torch.float32).backward()
    for trunk in (student.image.native.conv1.weight, student.image.native.transformer.resblocks[0].attn.in_proj_weight):
        assert float(trunk.grad.abs().max()) > 0
    words = student.native.token_embedding.weight.grad
    assert (words is not None and float(words.abs().max()) > 0) == (name in BOTH_TOWERS)
    assert head.module is None or all(p.grad is not None for p in head.module.parameters())


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_depends_on_seed_and_step_alone(root, name):
    _, one = made(root, name)
    _, other = made(root, name)
    _, elsewhere = made(root, name, seed=1)
    early = one.batch(1)
    ahead_of_time = [other.batch(step) for step in (5, 1)][1]
    assert same(early, ahead_of_time) and not same(early, one.batch(2)) and not same(early, elsewhere.batch(1))


@pytest.mark.parametrize("name", LOSSES)
def test_the_towers_may_run_in_half_precision_the_loss_does_not(root, name):
    student, head = made(root, name)
    student.eval()
    if head.module is not None:
        head.module.eval()
    batch = head.batch(0)
    exact, half = (float(task_loss(head, student, batch, p).detach()) for p in (torch.float32, torch.bfloat16))
    assert half != exact and abs(half - exact) < 0.05 * abs(exact)
    assert task_loss(head, student, batch, torch.bfloat16).dtype == torch.float32


def test_a_question_is_asked_of_its_own_image_and_has_its_own_answers(root):
    _, head = made(root, "vqa")
    questions, batch = head.plan.train, head.batch(3)
    for image, caption in zip(batch.samples.tolist(), batch.captions.tolist(), strict=True):
        asked = int(head.question[caption])
        assert questions.paths[asked] == head.loader.samples.paths[image]
        assert head.loader.samples.flat_captions()[caption] == questions.questions[asked]
    logits = torch.zeros(6, len(head.answers.vocabulary), requires_grad=True)
    head.loss((logits,), batch).backward()
    answered = [
        head.answers.vocabulary.answers[k] for k in logits.grad.argmin(1).tolist()
    ]  # σ(0) − 1 at the answer, σ(0) elsewhere
    assert answered == [questions.answers[int(i)][0] for i in head.question[batch.captions]]


def test_questions_outside_the_vocabulary_are_not_asked(root):
    _, head = made(root, "vqa", task={"answers": 2})
    assert 0 < len(head.question) < len(head.plan.train)
    assert all(set(head.answers.earned[int(i)]) & set(head.answers.vocabulary.answers) for i in head.question)


def test_the_captioner_is_forced_along_the_captions_of_its_own_images(root):
    student, head = made(root, "captioning")
    batch = head.batch(0)
    for image, row in zip(batch.samples.tolist(), head.tokens[batch.captions].tolist(), strict=True):
        said = head.module.lexicon.expand(row)
        true = student.tokenizer(list(head.plan.train.captions[image]))[0][:, 1:].tolist()
        assert said and any(ids[: len(said)] == said for ids in true)


def test_the_detector_neither_owns_the_student_nor_changes_its_mode(root):
    student, head = made(root, "detection")
    assert student.training and head.detector.training
    mine = {id(p) for p in student.parameters()}
    assert not any(id(p) in mine for p in head.module.parameters())
    assert {id(p) for p in head.module.parameters()} == {id(p) for p in head.detector.learnt()}
    head.module.train()
    assert student.training


def test_scoring_leaves_the_student_in_training(root):
    student, head = made(root, "detection", task={"val": "scenes:4:val"})
    before = {k: v.clone() for k, v in student.state_dict().items()}
    assert set(head.result(student).metrics) >= {"mAP", "AP50"}
    assert student.training and head.detector.training
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())


def test_holdout_scores_on_images_that_are_not_trained_on(root):
    _, head = made(root, "vqa", task={"val": "holdout", "holdout": 0.25})
    train, val = (set(questions.image_ids) for questions in (head.plan.train, head.plan.val))
    assert len(train) == 9 and len(val) == 3 and not train & val


def test_unreadable_images_are_passed_over_within_the_budget(root):
    _, head = made(root, "captioning", task={"train": "scenes:12:31"})
    paths = head.plan.train.paths
    paths[0].write_bytes(b"no image")
    for step in range(4):
        assert 0 not in head.batch(step).samples.tolist()
    assert head.unreadable == 1
    paths[1].write_bytes(b"no image")
    _, head = made(root, "captioning", task={"train": "scenes:12:31"})
    with pytest.raises(DataError, match="2 unreadable images, the budget is 1 .*data.bad_budget"):
        for step in range(4):
            head.batch(step)


CASES = [
    ("vqa", {"task__train": None}, UsageError, "task.name: vqa needs data of its own; set task.train"),
    ("detection", {"task__train": None}, UsageError, "task.name: detection needs data of its own"),
    ("captioning", {"task__train": None}, UsageError, "task.name: captioning needs data of its own"),
    ("contrastive", {"task__train": None}, UsageError, "is what `align` is already; set task.train"),
    ("detection", {"task__train": "CAPTIONS"}, DataError, "captions.json: holds captions; give the instances"),
    ("vqa", {"task__train": "CAPTIONS"}, DataError, "captions.json"),
    ("captioning", {"task__train": "INSTANCES"}, DataError, "holds instances, not captions"),
    ("classification", {"task__train": "CAPTIONS"}, DataError, "has captions only, but task.name: classification needs labels"),
    ("vqa", {"task__val": "UNANSWERED"}, DataError, "its answers are not beside it"),
    ("vqa", {"task__train": "nowhere.json"}, DataError, "nowhere.json: no such file"),
    ("vqa", {"task__batch": 64}, UsageError, "task.batch is 64, but scenes:12:train has only 12 images"),
    ("detection", {"task__batch": 64}, UsageError, "task.batch is 64, but .* only 12 images with a box"),
    ("detection", {"task__width": 40}, UsageError, "multiple of 32"),
    ("captioning", {"task__width": 33}, UsageError, "multiple of its 4 heads"),
    ("vqa", {"task__width": 33}, UsageError, "a multiple of 4"),
    ("vqa", {"method": "promptkd"}, UsageError, "method 'promptkd' trains no student for task.train"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "over", "kind", "message"), CASES)
def test_what_cannot_be_learnt_is_told_in_one_line(root, tmp_path, name, over, kind, message):
    from cmapkd.data.readers.builtin import scenes_folder

    folder, _ = scenes_folder("scenes:12:train", settings(root, name).data, None)
    unanswered = tmp_path / "v2_OpenEnded_questions.json"
    unanswered.write_bytes((folder / "vqa_questions.json").read_bytes())
    places = {"CAPTIONS": "captions.json", "INSTANCES": "instances.json"}
    task = {}
    for key, value in over.items():
        value = str(unanswered) if value == "UNANSWERED" else str(folder / places[value]) if value in places else value
        if key.startswith("task__"):
            task[key.removeprefix("task__")] = value
    rest = {key: value for key, value in over.items() if not key.startswith("task__")}
    with pytest.raises(kind, match=message) as error:
        made(root, name, task=task, **rest)
    assert "\n" not in str(error.value)


def test_a_task_without_a_weight_reads_nothing_and_says_so(root, monkeypatch, capsys):
    monkeypatch.setattr(opening, "read_data", lambda *_: pytest.fail("read"))
    for weights, said in (({}, True), ({"task": 0.0}, False)):
        config = structs.replace(settings(root, "vqa"), weights=weights)
        assert open_task_loss(config.task, config.data, host(config, bool(weights.get("task")))) is None
        assert ("weights.task is not set" in capsys.readouterr().err) == said
