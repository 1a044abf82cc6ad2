"""Tables, curves and pages of a comparison: intervals, paired leads, and bold only for a significant lead."""

import json
import re

import world
from cmapkd.config.load import dump_config
from cmapkd.report.comparison import Comparison, arm_rows, significant
from cmapkd.report.comparison_page import write_page
from cmapkd.report.comparison_tables import lead_grid, write_tables
from cmapkd.report.curves import curves
from cmapkd.report.run_results import RunResult
from cmapkd.report.stats import differ, interval, paired


def result(arm, seed, value, budget=1.0, seconds=5.0):
    return RunResult(
        arm, seed, budget, round(100 * budget), round(12800 * budget), 9.0, seconds, {"mean_recall@1": value}
    )


def test_the_interval_is_students_t():
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and abs(half - 4.303 / 3**0.5) < 1e-3
    assert paired([2.0, 3.0], [1.0, 2.0]) == (1.0, 0.0)


def test_a_difference_counts_only_when_its_paired_interval_excludes_zero():
    assert differ([1.0, 2.0, 3.0], [0.0, 1.1, 2.0])
    assert not differ([1.0, 2.0, 3.0], [0.0, 3.0, 2.0])
    assert not differ([1.0], [0.0])


def test_only_a_lead_over_every_other_arm_is_bold():
    clear = [result("a", s, 0.5 + s / 100) for s in range(3)] + [result("b", s, 0.4 + s / 100) for s in range(3)]
    assert significant(arm_rows(clear), "mean_recall@1") == {"a"}
    third = [result("c", s, 0.5 + (s - 1) / 50) for s in range(3)]
    assert significant(arm_rows(clear + third), "mean_recall@1") == set()
    assert significant(arm_rows([result("a", 0, 0.9), result("b", 0, 0.1)]), "mean_recall@1") == set()


def test_tables_are_written_in_four_forms(tmp_path):
    runs = [
        result(arm, s, v + s / 100, b)
        for arm, v in (("kd", 0.2), ("our_own", 0.4))
        for s in range(3)
        for b in (0.5, 1.0)
    ]
    text = write_tables(Comparison(runs, {"mean_recall@1": 0.5}, "kd"), tmp_path)
    assert "50 steps" in text and "**41.0 ± 2.5**" in text and "+20.0 ± 0.0" in text and "82.0" in text
    assert r"our\_own" in (tmp_path / "table.tex").read_text() and r"\toprule" in (tmp_path / "table.tex").read_text()
    assert "**" not in (tmp_path / "table.csv").read_text()
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 1 + len(runs) and lines[0]["arm"] == "teacher"


def test_leads_pair_by_seed_and_are_bold_only_where_the_interval_excludes_zero():
    ours = [result("cmapkd", s, v) for s, v in enumerate((0.30, 0.32, 0.34))]
    near = [result("near", s, v) for s, v in enumerate((0.29, 0.33, 0.33))]
    far = [result("far", s, v) for s, v in enumerate((0.20, 0.221, 0.239))]
    once = [result("once", 0, 0.1)]
    header, body = lead_grid(arm_rows(ours + near + far + once), "cmapkd")
    assert header == ["cmapkd minus", "mean R@1"]
    assert body == [["near", "+0.3 ± 2.9"], ["far", "**+10.0 ± 0.2**"]], "an arm of other seeds does not pair"
    assert lead_grid(arm_rows(near), "cmapkd") == ([], [])


def test_a_comparison_becomes_one_offline_page(root):
    runs = [
        result(arm, s, v + s / 50, b, 3.0)
        for arm, v in (("kd", 0.2), ("cmapkd", 0.3))
        for s in range(2)
        for b in (0.5, 1)
    ]
    config = world.config(root)
    found = Comparison(runs, {"mean_recall@1": 0.5}, None, "cmapkd", ["a <note>"])
    path = write_page(found, root, "a student", config.data, dump_config(config))
    text = path.read_text()
    assert "50 steps" in text and "100 steps" in text and text.count("<svg") == 2 and "cmapkd minus" in text
    assert (
        "a &lt;note&gt;" in text
        and "Synthetic data" in text
        and "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    )


def test_curves_follow_samples_and_training_seconds():
    runs = [result("kd", s, 0.2 * b, b, 10 * b) for s in range(2) for b in (1.0, 0.5)]
    by_samples, by_seconds = curves(runs)
    assert by_samples.series == {"kd": ([6400, 12800], [10.0, 20.0])}
    assert by_seconds.series == {"kd": ([5.0, 10.0], [10.0, 20.0])}
