"""Pages written from finished runs and comparisons."""

import pytest

import world
from cmapkd.core.errors import UsageError
from cmapkd.experiments.compare import compare
from cmapkd.experiments.plan import RunPlan
from cmapkd.report.run_report import report_comparison, report_run
from cmapkd.train.runs.distill import distill
from cmapkd.train.runs.folder import prepare_folder


def test_a_comparison_is_finished_once_and_its_table_has_teacher_and_methods(root, capsys, monkeypatch):
    config = world.config(root, train__steps=3, eval__every=None)
    out = root / "compare"
    compare(config, ["scratch", "fd", "cmapkd"], RunPlan(2), out)
    assert world.arms_of(out / "table.md") == ["teacher", "scratch", "fd", "cmapkd"]
    monkeypatch.setattr("cmapkd.experiments.arms.distill", lambda *_, **__: pytest.fail("ran again"))
    compare(config, ["scratch", "fd", "cmapkd"], RunPlan(2), out)
    page = report_comparison("cmapkd", ["scratch", "fd", "cmapkd"], out, "cmapkd compare").read_text()
    assert "Synthetic data" in page and "http" not in page.split("<body")[1].split("Configuration")[0].replace(
        "http://www.w3.org", ""
    )


def test_runs_of_one_seed_start_from_the_same_student(root):
    from cmapkd.train.setup.assemble import assemble

    starts = []
    for method in ("scratch", "cmapkd"):
        config = world.config(root, run=str(root / f"start-{method}"), method=method)
        run = assemble(config, prepare_folder(config, False))
        starts.append({k: v.clone() for k, v in run.state.learner.student.state_dict().items()})
        assert run.loader.batch(0).samples.tolist() == run.loader.batch(0).samples.tolist()
    assert all(v.equal(starts[1][k]) for k, v in starts[0].items())


def test_the_report_of_a_gated_run_shows_weights_of_single_samples(root):
    over = {"policy__name": "manual", "policy__weights": {"P2": 3.0}, "train__steps": 3}
    folder = distill(world.config(root, run=str(root / "manual"), **over))
    page = report_run(folder).read_text()
    assert "Level weights of single samples" in page and "Levels of each stage" in page


def test_the_report_of_a_run_that_is_scored_on_a_held_out_slice_shows_that_slice(root):
    over = {"data__val": "holdout", "data__holdout": 0.25, "method": "scratch", "train__steps": 2}
    folder = distill(world.config(root, run=str(root / "apart"), **over))
    assert "12 images" in report_run(folder).read_text()  # of 48


def test_an_unfinished_run_has_no_report(root, tmp_path):
    with pytest.raises(UsageError, match="no finished run here"):
        report_run(tmp_path)


def test_the_report_of_a_learnt_policy_shows_what_it_earned_and_decided(root):
    over = {"policy__name": "rl", "policy__every": 1, "policy__collect": 0.2, "data__holdout": 0.1, "train__steps": 6}
    folder = distill(world.config(root, run=str(root / "learnt"), **over))
    page = report_run(folder).read_text()
    for title in ("Policy", "Evidence", "Level weights of single samples", "The policy&#39;s factor on the coupling"):
        assert f">{title}<" in page
