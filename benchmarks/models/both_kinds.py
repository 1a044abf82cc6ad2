"""Forms of L_logits for a sigmoid student of a softmax teacher, side by side: `python -m benchmarks.models.both_kinds [--steps N] [--seeds N]`.

The student is two small heads on the shallowest features of the built-in world's teacher, so that a run takes seconds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmapkd.config.schema import DataConfig, TowerConfig
from cmapkd.core.types import LogitScale, Pair
from cmapkd.data.readers import open_samples
from cmapkd.losses import logits as softmax
from cmapkd.losses import sigmoid
from cmapkd.losses.both_kinds import align, distill
from cmapkd.losses.contrastive import similarity
from cmapkd.teacher.calibration_file import teacher_inputs
from cmapkd.towers.load import load_tower

TRAINED, HELD_OUT, BATCH, RATE = 2000, 500, 64, 2e-3
Form = Callable[[Pair[Tensor], Pair[Tensor], LogitScale, LogitScale], Tensor | float]


def of_softmaxes(student: Pair[Tensor], teacher: Pair[Tensor], mine: LogitScale, theirs: LogitScale) -> Tensor:
    return softmax.logits(student.image, student.text, teacher.image, teacher.text, mine.scale, theirs.scale)


def of_rows(student: Pair[Tensor], teacher: Pair[Tensor], mine: LogitScale, theirs: LogitScale) -> Tensor:
    targets = theirs.logits(similarity(teacher.image, teacher.text)).softmax(1)
    return sigmoid.pair_divergence(mine.logits(similarity(student.image, student.text)), targets)


FORMS: dict[str, Form] = {
    "L_align alone": lambda *_: 0.0,
    "pairs, mean of both softmaxes": distill,
    "the same at the teacher's scale": lambda s, t, mine, theirs: distill(s, t, mine.at(float(theirs.scale)), theirs),
    "pairs, softmax of rows": of_rows,
    "softmax of the student, own scale": of_softmaxes,
    "softmax of the student, teacher's scale": lambda s, t, _, theirs: of_softmaxes(s, t, theirs, theirs),
}


def features() -> tuple[Pair[Tensor], Pair[Tensor], LogitScale]:
    """(P2 and L1 pooled, standardised; final embeddings; scale) of the shipped teacher."""
    data, tower = (
        DataConfig(train="scenes:2500:train", views=1),
        load_tower(TowerConfig(model="shipped:scenes-teacher")),
    )
    samples = open_samples(data.train, data)
    with torch.no_grad():
        parts = [tower.eval()(inputs) for inputs in teacher_inputs(tower, samples, data, np.arange(len(samples)))]
    sides = Pair([part.image for part in parts], [part.text for part in parts])
    shallow = sides.map(lambda side: torch.cat([one.pooled[0] for one in side]))
    first = shallow.map(lambda rows: (rows - rows[:TRAINED].mean(0)) / rows[:TRAINED].std(0).clamp_min(1e-3))
    final = sides.map(lambda side: F.normalize(torch.cat([one.final for one in side]), dim=-1))
    return first, final, tower.similarity.fixed()


def train(
    form: Form, seed: int, steps: int, first: Pair[Tensor], final: Pair[Tensor], theirs: LogitScale
) -> list[float]:
    """[mean R@1, mean R@10, L_align] of the held-out pairs, and the scale and the bias at the end."""
    torch.manual_seed(seed)
    heads = first.map(lambda rows: nn.Sequential(nn.Linear(rows.shape[1], 64), nn.GELU(), nn.Linear(64, 32)))
    log_scale, bias = nn.Parameter(torch.tensor(math.log(10))), nn.Parameter(torch.tensor(-10.0))
    learnt = [*heads.image.parameters(), *heads.text.parameters(), log_scale, bias]
    optimizer = torch.optim.AdamW(learnt, lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = torch.randperm(TRAINED)[:BATCH]
        student = heads.zip(first).map(lambda pair, chosen=chosen: pair[0](pair[1][chosen]))
        mine = LogitScale(log_scale.exp(), bias)
        loss = align(student.image, student.text, mine)
        loss = loss + form(student, final.map(lambda rows, chosen=chosen: rows[chosen]), mine, theirs)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        held = heads.zip(first).map(lambda pair: pair[0](pair[1][TRAINED:]))
        parts = [held.map(lambda rows, k=k: rows[k : k + BATCH]) for k in range(0, HELD_OUT - BATCH, BATCH)]
        losses = [float(align(part.image, part.text, LogitScale(log_scale.exp(), bias))) for part in parts]
    z, own = similarity(held.image, held.text), torch.arange(HELD_OUT)[:, None]
    hits = [torch.cat([x.topk(k)[1] == own for x in (z, z.T)]).any(1).float().mean().item() for k in (1, 10)]
    return [*hits, sum(losses) / len(losses), float(log_scale.detach().exp()), float(bias.detach())]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models.both_kinds", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    given, known = parser.parse_args(), features()
    print(f"the teacher's scale: {known[2].scale:.1f}")
    for name, form in FORMS.items():
        found = torch.tensor([train(form, seed, given.steps, *known) for seed in range(given.seeds)])
        one, ten, loss, scale, bias = found.mean(0).tolist()
        print(
            f"{name:40} R@1 {one:.3f} R@10 {ten:.3f} ± {float(found[:, 1].std()):.3f}, L_align {loss:.3f}, s {scale:.1f}, b {bias:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
