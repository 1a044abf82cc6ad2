"""Batches are random access by step, use every image and caption, and survive bad files within a budget."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from cmapkd.core import prefetch as prefetching
from cmapkd.core.errors import DataError, UsageError
from cmapkd.core.types import Batch
from cmapkd.data import decoders
from cmapkd.data.images import decode
from cmapkd.data.loader import InputSpec, Ledger, Loader, read_images, read_views
from cmapkd.data.samples import Samples
from cmapkd.data.stored import Member
from pictures import config, samples


def tokenize(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor([[int(part) for part in text.split()] for text in texts])
    return ids, torch.arange(2).expand(len(texts), 2)


def loader(
    data: Samples, batch: int = 4, teacher: bool = False, pool: np.ndarray | None = None, seed: int = 0, **keys: object
) -> Loader:
    theirs = InputSpec(12, tokenize) if teacher else None
    return Loader(data, config("x", **keys), InputSpec(8, tokenize), theirs, batch, seed, pool)


def same(a: Batch, b: Batch) -> bool:
    pairs = [
        (a.samples, b.samples),
        (a.captions, b.captions),
        (a.views, b.views),
        (a.student.images, b.student.images),
        (a.student.ids, b.student.ids),
    ]
    return all(torch.equal(x, y) for x, y in pairs)


def test_a_batch_is_the_same_whatever_came_before(tmp_path: Path) -> None:
    data = samples(tmp_path, 11)
    fresh, used = loader(data, ram_mb=0), loader(data)
    for step in range(6):
        used.batch(step)
    assert same(fresh.batch(7), used.batch(7)) and not same(fresh.batch(7), fresh.batch(8))
    assert not same(loader(data, seed=1).batch(7), fresh.batch(7))


def test_an_epoch_shows_every_image_once_and_drops_the_rest(tmp_path: Path) -> None:
    it = loader(samples(tmp_path, 11))
    assert it.steps_per_epoch == 2
    for epoch in range(3):
        seen = torch.cat([it.batch(2 * epoch + k).samples for k in range(2)]).tolist()
        assert len(set(seen)) == 8
    assert it.ledger.seen == 24


def test_all_captions_of_an_image_come_in_turn(tmp_path: Path) -> None:
    it = loader(samples(tmp_path, 4, captions=3))
    seen: Counter[int] = Counter()
    for epoch in range(3):
        batch = it.batch(epoch)
        seen.update(batch.captions.tolist())
        assert (batch.captions // 3 == batch.samples).all() and (batch.student.ids[:, 0] == batch.samples).all()
    assert seen == Counter(range(12))


def test_every_view_is_replayed_and_holds_the_pixels_of_its_number(tmp_path: Path) -> None:
    data = samples(tmp_path, 8)
    it, views = loader(data, batch=8, views=3), set()
    for step in range(4):
        batch = it.batch(step)
        views |= set(batch.views.tolist())
        stored = read_views(data, it.data, batch.samples.numpy(), batch.views.numpy(), 8, Ledger())
        assert torch.equal(stored, batch.student.images)
    assert views == {0, 1, 2}


def test_the_teacher_sees_the_same_crop_at_its_own_size(tmp_path: Path) -> None:
    data = samples(tmp_path, 8)
    with_teacher, without = loader(data, teacher=True).batch(1), loader(data).batch(1)
    assert without.teacher is None and same(with_teacher, without)
    assert with_teacher.teacher is not None and with_teacher.teacher.images.shape == (4, 3, 12, 12)
    expected = read_views(data, config("x"), with_teacher.samples.numpy(), with_teacher.views.numpy(), 12, Ledger())
    assert torch.equal(with_teacher.teacher.images, expected)


def test_a_rendered_view_is_kept_while_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Path] = []
    monkeypatch.setattr(decoders, "decode", lambda path: decoded.append(path) or decode(path))
    for room, expected in ((4, 4), (1, 7), (0, 8)):
        decoded.clear()
        it = loader(samples(tmp_path, 4), views=1)
        it._cache_bytes_left = room * 3 * 8 * 8
        it.batch(0), it.batch(1)
        assert len(decoded) == expected


def test_only_the_pool_is_trained_on(tmp_path: Path) -> None:
    pool = np.array([1, 4, 5, 9, 10])
    it = loader(samples(tmp_path, 11), batch=2, pool=pool)
    assert {int(s) for step in range(20) for s in it.batch(step).samples} == set(pool.tolist())


def test_prefetched_batches_come_in_order_and_resume_anywhere(tmp_path: Path) -> None:
    it = loader(samples(tmp_path, 9))
    whole = list(it.iterate(0, 7))
    assert [step for step, _ in whole] == list(range(7))
    assert all(same(a, b) for (_, a), (_, b) in zip(whole[3:], it.iterate(3, 7), strict=True))


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("keys", [{}, {"ram_mb": 0}])
def test_batches_and_ledger_are_the_same_for_every_number_of_workers(
    tmp_path: Path, workers: int, keys: dict[str, int]
) -> None:
    data = samples(tmp_path, 23)
    for k in (2, 3, 11, 17):
        data.paths[k].write_bytes(b"junk" * k)
    one = loader(data, teacher=True, workers=1, bad_budget=0.3, **keys)
    several = loader(data, teacher=True, workers=workers, bad_budget=0.3, **keys)
    assert (one.workers, several.workers) == (1, workers)
    steps = 0
    for (step, a), (again, b) in zip(one.iterate(2, 14), several.iterate(2, 14), strict=True):
        assert step == again and same(a, b)
        assert a.teacher is not None and b.teacher is not None and torch.equal(a.teacher.images, b.teacher.images)
        assert one.ledger.quarantined == several.ledger.quarantined
        assert list(one.ledger.quarantined) == list(several.ledger.quarantined)
        steps += 1
        assert one.ledger.seen == several.ledger.seen == 4 * steps
    assert steps == 12 and sorted(one.ledger.quarantined) == ["11", "17", "2", "3"]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_budget_ends_a_run_at_the_step_that_exceeds_it_whichever_was_ready_first(
    tmp_path: Path, workers: int
) -> None:
    data = samples(tmp_path, 40)
    it = loader(data, workers=workers)
    order = [s for step in range(10) for s in it.batch(step).samples.tolist()]
    for place in (5, 17, 18):  # steps 1 and 4; the budget of 40 images is one
        data.paths[order[place]].write_bytes(b"")
    it, delivered = loader(data, workers=workers, ram_mb=0), []
    with pytest.raises(DataError, match="2 unreadable images") as caught:
        for step, _ in it.iterate(0, 10):
            delivered.append(step)
    assert delivered == [0, 1, 2, 3] and it.ledger.seen == 16
    assert list(it.ledger.quarantined) == [str(order[5]), str(order[17])]
    assert f"{order[5]} (" in str(caught.value)


def test_waiting_for_a_batch_can_be_interrupted_by_a_signal(tmp_path: Path) -> None:
    class Asked(Exception):
        pass

    def ask(*_: object) -> None:
        raise Asked

    entered, leave = threading.Event(), threading.Event()

    def slow(step: int, batch: Batch) -> None:
        entered.set()
        leave.wait(60)

    before = signal.signal(signal.SIGUSR1, ask)
    try:
        batches = loader(samples(tmp_path, 9), workers=2).iterate(0, 100, slow)

        def interrupt() -> None:
            entered.wait(60)
            os.kill(os.getpid(), signal.SIGUSR1)
            leave.set()

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(Asked):
            next(batches)
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not [t for t in threading.enumerate() if t.name.startswith(("prefetch", "decoding"))]


@pytest.mark.parametrize(("processors", "ranks", "images", "expected"), [(16, "", 10**6, 15), (16, "4", 10**6, 3), (2, "8", 10**6, 1), (16, "", 1600, 3), (16, "", 9, 1)])  # fmt: skip
def test_workers_are_one_per_processor_but_one_divided_among_the_ranks_of_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processors: int, ranks: str, images: int, expected: int
) -> None:
    monkeypatch.setattr(prefetching, "processors", lambda: processors)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    it = loader(samples(tmp_path, 9))
    it.pool = np.arange(images)
    assert it.workers == expected


def test_calls_of_then_do_not_overlap(tmp_path: Path) -> None:
    inside, most = [0], [0]

    def then(step: int, batch: Batch) -> int:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        threading.Event().wait(0.005)
        inside[0] -= 1
        return step

    assert [made for _, made in loader(samples(tmp_path, 9), workers=2).iterate(0, 12, then)] == list(range(12))
    assert most == [1]


@pytest.mark.parametrize("workers", [1, 2])
def test_leaving_early_ends_the_threads(tmp_path: Path, workers: int) -> None:
    it = loader(samples(tmp_path, 9), workers=workers)
    batches = it.iterate(0, 1000)
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith(("prefetch", "decoding"))]


def test_an_unreadable_image_is_named_and_replaced(tmp_path: Path) -> None:
    data = samples(tmp_path, 8)
    data.paths[3].write_bytes(b"")
    it = loader(data)
    for step in range(6):
        batch = it.batch(step)
        assert 3 not in batch.samples and len(batch.samples) == 4
    assert it.ledger.quarantined == {"3": "3.png: the file is empty"}


def test_a_quarantined_image_is_not_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = samples(tmp_path, 4)
    data.paths[3].write_bytes(b"")
    it = loader(data, ram_mb=0)
    it.batch(0)
    monkeypatch.setattr(
        decoders, "decode", lambda path: pytest.fail("opened again") if path.stem == "3" else decode(path)
    )
    it.batch(1)


def test_more_bad_images_than_the_budget_stop_the_run_with_their_names(tmp_path: Path) -> None:
    data = samples(tmp_path, 12)
    for k in range(4):
        data.paths[k].write_bytes(b"junk")
    with pytest.raises(
        DataError, match=r"3 unreadable images, the budget is 2 \(data.bad_budget 0.2\).*\.png: .*; repair"
    ) as caught:
        list(loader(data, bad_budget=0.2).iterate(0, 9))
    assert "\n" not in str(caught.value)
    assert len(list(loader(data, bad_budget=0.5).iterate(0, 9))) == 9


def test_a_batch_larger_than_the_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="train.batch is 9.*only 5 images"):
        loader(samples(tmp_path, 5), batch=9)


def test_evaluation_reads_whole_images_and_names_the_bad_one(tmp_path: Path) -> None:
    data = samples(tmp_path, 3)
    assert read_images(data, range(3), 10).shape == (3, 3, 10, 10)
    data.paths[2].unlink()
    with pytest.raises(DataError, match=r"2\.png.*evaluation needs every image"):
        read_images(data, range(3), 10)


def test_members_of_a_shard_are_trained_on_and_a_bad_one_is_named(tmp_path: Path) -> None:
    whole = Samples("files", *(getattr(samples(tmp_path, 5), key) for key in ("ids", "paths", "captions")))
    data = b"".join(path.read_bytes() for path in whole.paths if isinstance(path, Path))
    (tmp_path / "x.tar").write_bytes(data)
    sizes = [path.stat().st_size for path in whole.paths if isinstance(path, Path)]
    starts = [sum(sizes[:k]) for k in range(5)]
    members = [Member(tmp_path / "x.tar", f"x.tar/{k}.png", starts[k], sizes[k]) for k in range(5)]
    packed = Samples("packed", whole.ids, tuple(members), whole.captions)
    assert all(same(loader(whole).batch(step), loader(packed).batch(step)) for step in range(3))
    (tmp_path / "x.tar").write_bytes(data[:-5])
    it = loader(packed)
    [it.batch(step) for step in range(3)]
    assert it.ledger.quarantined == {"4": f"x.tar/4.png: cut off: {sizes[4] - 5} of {sizes[4]} bytes are there"}


def test_the_teachers_pass_counts_unreadable_images_within_the_same_budget(tmp_path: Path) -> None:
    data, ledger = samples(tmp_path, 5), Ledger()
    data.paths[1].write_bytes(b"")
    data.paths[3].write_bytes(b"")
    rows, views = np.arange(5), np.zeros(5, np.int64)
    assert (read_views(data, config("x", bad_budget=0.4), rows, views, 8, ledger)[[1, 3]] == 127).all()
    assert sorted(ledger.quarantined) == ["1", "3"]
    with pytest.raises(DataError, match="2 unreadable images, the budget is 1"):
        read_views(data, config("x"), rows, views, 8, Ledger())


@pytest.mark.parametrize("of", [2, 4])
def test_stripes_of_a_batch_make_up_the_whole_batch(tmp_path: Path, of: int) -> None:
    data = samples(tmp_path, 11)
    whole = loader(data, batch=8)
    parts = [loader(data, batch=8) for _ in range(of)]
    for k, part in enumerate(parts):
        part.stripe = (k, of)
    for step in range(3):
        expected, found = whole.batch(step), [part.batch(step) for part in parts]
        for k, batch in enumerate(found):
            assert len(batch) == 8 // of
            assert torch.equal(batch.samples, expected.samples[k::of])
            assert torch.equal(batch.student.images, expected.student.images[k::of])
            assert torch.equal(batch.student.ids, expected.student.ids[k::of])
