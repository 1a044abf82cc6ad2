"""The report page and its tables: everything in it, nothing from outside, user text escaped."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from cmapkd.report import log_series, plots
from cmapkd.report.plots import Matrix
from cmapkd.report.run_page import Retrieved, RunPage, render, write_run_page
from cmapkd.report.run_plots import LevelMatrices, run_plots
from cmapkd.report.score_table import COLUMNS, ScoreRow, retention, score_table, to_csv, to_markdown

VOID = {"meta", "img", "br", "link", "hr", "input"}


def metrics(base: float) -> dict[str, float]:
    return {name: base + 0.01 * k for k, name in enumerate(COLUMNS)}


ROWS = (
    ScoreRow("teacher", "teacher", metrics(0.6), 86_000_000, 344.0),
    ScoreRow("scratch", "scratch", metrics(0.3), 2_000_000, 8.0),
    ScoreRow("ours | x", "ours", metrics(0.45), 2_000_000, 8.0, seeds=3, spread={"mean_recall@1": 0.0123}),
)
LOG = (
    *({"kind": "train", "step": s, "loss": 2.0, "loss/itc": 1 / s, "loss/align": 2 / s, "weight/P2": 0.5,
       "weight/L4": 1.0,       "stage": int(s > 20)} for s in range(1, 41)),
    {"kind": "val", "step": 20, "mean_recall@1": 0.2, "image_retrieval_medr": 7.0},
    {"kind": "val", "step": 40, "mean_recall@1": 0.3, "image_retrieval_medr": 5.0},
    {"kind": "balance", "step": 2, "term": "align", "share": 0.3, "norm": 0.1, "final_norm": 2.0, "before": 1.0,
     "weight": 6.0},
)  # fmt: skip
SQUARE = Matrix(("P2", "P3"), ("L1", "L2"), ((0.125, 0.5), (float("nan"), 1.0)))
PICTURE = np.zeros((300, 200, 3), dtype=np.uint8)
FULL = RunPage(
    title="A run", subtitle="today", synthetic=True, scores=ROWS, data=("scenes/test · data 0123abcd",), log=LOG,
    plots=run_plots(LOG, ("shallow", "deep"), LevelMatrices(samples=SQUARE, coupling=SQUARE, bridge=SQUARE)),
    examples=(Retrieved("a red cube", (PICTURE,) * 5, 1), Retrieved("two balls", (PICTURE,) * 5, None)),
    config="seed: 0", environment={"torch": "2.15"}, command="cmapkd train run.yaml",
)  # fmt: skip


class Nesting(HTMLParser):
    """Fails when an element is closed that was not the last opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for key, value in attrs if key == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_shows_every_section_and_fact() -> None:
    page = render(FULL)
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == [
        "Scores", "Validation", "Losses", "Level weights", "Level weights of single samples", "Coupling of levels",
        "Bridge", "Calibration of the terms", "Retrieved images", "Command", "Configuration", "Environment",
    ]  # fmt: skip
    for fact in (
        "cmapkd train run.yaml",
        "seed: 0",
        "2.15",
        "0123abcd",
        "mean R@1",
        "itc",
        "shallow",
        "12.5",
        "‖∇ term‖",
    ):
        assert fact in page


def test_the_page_loads_nothing_from_anywhere() -> None:
    page = render(FULL)
    references = re.findall(r"(?:src|href)=\"([^\"]*)\"", page) + re.findall(r"url\(([^)]*)\)", page)
    assert references and all(each.startswith(("data:", "#")) for each in references)
    assert "<script" not in page and "@import" not in page and "<link" not in page
    assert set(re.findall(r"https?://[^\"]*", page)) <= {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}


def test_elements_are_nested_and_ids_unique_across_figures() -> None:
    parser = Nesting()
    parser.feed(render(FULL))
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids)) > 50


@pytest.mark.parametrize("field", ["title", "subtitle", "config", "command"])
def test_user_text_is_escaped(field: str) -> None:
    page = render(RunPage(**{"title": "t", field: "<img src=x onerror=alert(1)>"}))
    assert "<img" not in page and "&lt;img" in page


def test_text_in_tables_pictures_and_figures_is_escaped() -> None:
    evil = "<b>&"
    log = [{"step": 1, f"loss/{evil}": 1.0}, {"kind": "balance", "step": 1, "term": evil}]
    page = render(
        RunPage(
            "t", scores=(ScoreRow(evil, "ours", metrics(0.1)),), data=(evil,), environment={evil: evil},
            warnings=(evil,), examples=(Retrieved(evil, (PICTURE,), None),),
            plots=run_plots(log, (), LevelMatrices(coupling=Matrix((evil,), (evil,), ((1.0,),)))), log=log,
        )
    )  # fmt: skip
    assert "<b>" not in page and page.count("&lt;b&gt;&amp;") >= 9


def test_a_synthetic_run_carries_a_warning_and_a_real_one_does_not() -> None:
    assert "Synthetic data" in render(FULL)
    assert 'class="warning"' not in render(RunPage("t"))


def test_a_section_without_content_is_left_out() -> None:
    assert "<h2>" not in render(RunPage("only a title"))


def test_the_right_image_is_framed_and_its_absence_is_said() -> None:
    page = render(FULL)
    assert page.count('<div class="right">') == 1 and "2 · right" in page
    assert page.count("its own image is not among these") == 1
    assert page.count("data:image/jpeg;base64,") == 10


def test_plots_take_their_ink_from_the_page() -> None:
    svg = plots.heat_map(SQUARE, "m")
    assert svg.startswith("<svg") and "currentColor" in svg and plots.INK not in svg
    assert "nan" not in svg


def test_files_are_written_beside_each_other(tmp_path: Path) -> None:
    page = write_run_page(tmp_path / "out", FULL)
    assert page.name == "report.html" and page.read_text() == render(FULL)
    assert {path.name for path in page.parent.iterdir()} == {"report.html", "scores.md", "scores.csv"}


def test_retention_is_the_share_of_the_teachers_figure() -> None:
    assert retention(ROWS[2], ROWS, "zeroshot/acc1") == pytest.approx(0.52 / 0.67)
    assert retention(ROWS[0], ROWS, "zeroshot/acc1") is None
    assert retention(ROWS[2], ROWS[1:], "zeroshot/acc1") is None
    assert "top-1 kept" not in score_table(ROWS[1:]).headings


def test_the_best_student_is_marked_and_never_the_teacher() -> None:
    table = score_table(ROWS)
    assert not any(cell.best for cell in table.rows[0][1])
    assert [cell.best for cell in table.rows[2][1][1 : len(COLUMNS) + 1]] == [True] * len(COLUMNS)


def test_markdown_keeps_its_columns_whatever_a_name_holds() -> None:
    lines = to_markdown(ROWS).splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(score_table(ROWS).headings) + 1}
    assert "ours \\| x (3 seeds)" in lines[-1] and "**51.00 ± 1.23**" in lines[-1]


def test_csv_is_unrounded_and_complete() -> None:
    ours = list(csv.DictReader(io.StringIO(to_csv(ROWS))))[2]
    assert float(ours["zeroshot/acc1"]) == 0.45 + 0.07
    assert float(ours["mean_recall@1 half-width"]) == 0.0123
    assert (ours["name"], ours["seeds"], ours["params"]) == ("ours | x", "3", "2000000")


def test_stage_changes_and_validation_lines_are_found() -> None:
    assert log_series.stage_boundaries(LOG) == [21]
    assert log_series.validation_series(LOG)["mean_recall@1"] == ([20, 40], [0.2, 0.3])
    assert log_series.validation_series([{"step": 5, "val/zeroshot/acc1": 0.5}]) == {"zeroshot/acc1": ([5], [0.5])}


def test_values_that_are_not_finite_leave_a_gap_and_no_error() -> None:
    log = [{"step": s, "loss/itc": float("nan") if s < 3 else 1.0} for s in range(5)]
    assert log_series.series(log, "loss/") == {"itc": ([3, 4], [1.0, 1.0])}
    assert np.isfinite(plots.running_mean([1.0, float("nan"), 3.0], 2)).all()


def test_the_running_mean_is_a_mean_of_the_last_values() -> None:
    assert plots.running_mean([1, 2, 3, 4], 2).tolist() == [1, 1.5, 2.5, 3.5]


def test_labels_at_one_height_are_moved_apart() -> None:
    placed = plots.spread_out([5.0, 1.0, 1.0, 1.1], 0.5)
    assert placed[0] == 5.0
    assert np.diff(sorted(placed)).min() >= 0.5 - 1e-12
