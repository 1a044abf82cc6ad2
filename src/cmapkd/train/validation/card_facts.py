"""Facts for a run's model cards: of the student at its end, and of the best one so far."""

from __future__ import annotations

from cmapkd.export.run import METHOD_TENSORS
from cmapkd.methods import served_term
from cmapkd.tasks.trained_head import TrainedHead
from cmapkd.train.state import Run


def facts(
    run: Run, metrics: dict[str, float], centred: float, done: TrainedHead | None = None, best: str | None = None
) -> dict[str, object]:
    """Facts for the model card. centred: share of their mean that is taken from the image embeddings. done: what the
    task's own data made of the student, if it has any.

    best: by which figure a student was kept while the run went on; None for the one at its end.
    """
    samples, config = run.loader.samples, run.config
    scores = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    lines = [f"{config.data.val}: {scores}"] if scores else ["not evaluated (data.val is not set)"]
    data = [f"{samples.name}: {len(samples)} images, {samples.n_captions} captions, {samples.fingerprint()[:12]}"]
    places = [config.data.train]
    if done is not None and run.task is not None:
        places.append(str(config.task.train))
        data.append(f"task {config.task.name}, {config.task.train}: {run.task.says}")
        lines += [done.said] if done.said else []
    if (served := served_term(run.objective.method)) is not None:
        where = f"in {METHOD_TENSORS}, and the teacher is needed beside them" if best is None else "not kept here"
        lines.append(
            f"scores belong to {served.says}. This folder's model is the student alone, which they do not "
            f"describe; the method's own tensors are {where}"
        )
    inherits = run.objective.method.inherits(config.student.inherit)
    return {
        "name": f"{config.student.model} by {config.method}",
        "method": config.method,
        "teacher": config.teacher.model if config.teacher and (run.teacher or inherits) else None,
        "student": config.student.model,
        "data": data,
        "scores": lines,
        "training": f"{run.steps} steps of {config.train.batch}, seed {config.seed}, lr {config.train.lr:g}"
        + ("; begun from the teacher's weights" if inherits else "")
        + (f"; {centred:g} × the image embeddings' mean is taken from them, in the tower's bias" if centred else ""),
        **({} if best is None else {"kept": f"best {best}"}),
        "synthetic": any(place.startswith("scenes:") for place in places),
        "command": f"cmapkd distill --config {run.folder.name}/config.yaml",
    }
