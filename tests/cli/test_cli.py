"""The command line as a user meets it: help, errors, exit codes, and what each command calls with what."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from cmapkd.cli import main as cli
from cmapkd.cli.command_table import COMMANDS
from cmapkd.cli.listing import LISTS
from cmapkd.config.load import load_config
from cmapkd.config.suite import ScoredData
from cmapkd.core import errors
from cmapkd.experiments.plan import RunPlan
from pictures import coco
from waiting import LIMIT

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
CPU_MS = 150


@pytest.fixture
def called(monkeypatch):
    """Replaces an implementation by a recorder: called("cmapkd.train.runs.distill", "distill") gives the list of calls."""

    def replace(module: str, name: str, answer: object = "done") -> list[tuple]:
        calls: list[tuple] = []

        def record(*args: object, **kwargs: object) -> object:
            calls.append((*args, *kwargs.values()))
            if isinstance(answer, BaseException):
                raise answer
            return answer

        fake = types.ModuleType(module)
        setattr(fake, name, record)
        monkeypatch.setitem(sys.modules, module, fake)
        return calls

    return replace


def run(*argv: str) -> int:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        return cli.main(list(argv))
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_help_lists_every_command_in_little_time_and_without_torch():
    code = (
        "import sys, time; from cmapkd.cli.main import main; assert main(['--help']) == 0\n"
        "assert not set(sys.modules) & {'torch', 'numpy', 'msgspec', 'yaml', 'rich'}\n"
        "print(time.process_time() * 1000)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    lines = runs[0].stdout.splitlines()
    assert all(any(line.startswith(f"  {name} ") for line in lines) for name in COMMANDS)
    assert min(float(done.stdout.splitlines()[-1]) for done in runs) < 2 * CPU_MS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_page_of_its_own(name, capsys):
    with pytest.raises(SystemExit) as ended:
        run(name, "--help")
    assert ended.value.code == 0 and COMMANDS[name].about.split(":")[0] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["distil"], "unknown command 'distil'; commands: demo, init,"),
        (["distil"], "(did you mean 'distill'?)"),
        (["distill"], "required: --config; see `cmapkd distill --help`"),
        (["distill", "--config", "scenes", "--resum"], "(did you mean '--resume'?)"),
        (["distill", "--confg", "c.yaml"], "(did you mean '--config'?)"),
        (["list", "method"], "choose from"),
        (["distill", "--config", "nowhere.yaml"], "no such file"),
        (["distill", "--config", "scenes", "train.bach=3"], "unknown key 'train.bach' (did you mean 'train.batch'?)"),
        (["compare", "--config", "scenes", "--seeds", "x"], "invalid int value"),
        (["report", "no/such/run"], "run no/such/run: no such folder"),
        (["export", "no/such/run", "--to", "onnx"], "run no/such/run: no such folder"),
        (["demo", "more"], "unrecognized arguments: more"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(argv, words, capsys):
    assert run(*argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and words in err


def test_several_wrong_keys_are_one_line_each(capsys):
    assert run("distill", "--config", "scenes", "train.bach=3", "train.lr=-1") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("error: config scenes: ") for line in lines)


def test_no_command_at_all_prints_the_help_and_exits_2(capsys):
    assert run() == 2 and "usage: cmapkd" in capsys.readouterr().out


def test_overrides_may_stand_anywhere_and_reach_the_config(called):
    calls = called("cmapkd.train.runs.distill", "distill")
    assert run("distill", "train.steps=7", "--config", "scenes", "data.crop=[0.5, 1]", "--resume", "seed=3") == 0
    ((config, resume, dry_run),) = calls
    assert (config.train.steps, config.data.crop, config.seed, resume, dry_run) == (7, (0.5, 1.0), 3, True, False)


def test_overrides_do_not_end_up_among_the_methods(called):
    calls = called("cmapkd.experiments.compare", "compare")
    assert run("compare", "--config", "scenes", "--methods", "kd", "cmapkd", "train.steps=7", "--seeds", "2") == 0
    ((config, methods, plan, out),) = calls
    assert (config.train.steps, methods, out) == (7, ["kd", "cmapkd"], Path("runs/compare"))
    assert plan == RunPlan(seeds=2, budgets=[1.0], tune=False, jobs=1)


@pytest.mark.parametrize(
    ("argv", "module", "name", "expected"),
    [
        (["demo", "--out", "o"], "cmapkd.experiments.demo", "demo", (Path("o"),)),
        (["data", "inspect", "p"], "cmapkd.data.inspect.look", "inspect", ("p", None)),
        (["eval", "m", "--data", "d", "--tasks", "zeroshot", "retrieval"], "cmapkd.evaluation.evaluate", "evaluate_folder",
         ("m", ScoredData(data="d"), ["zeroshot", "retrieval"], None, [], False, None, None)),
        (["eval", "m", "--protocol", "p", "--per-class", "--out", "o.json", "--teacher", "t"], "cmapkd.evaluation.evaluate", "evaluate_folder",
         ("m", None, ["retrieval"], None, ["p"], True, Path("o.json"), "t")),
        (["report", "."], "cmapkd.report.run_report", "report_run", (Path("."),)),
        (["export", ".", "--to", "onnx", "open_clip"], "cmapkd.export.run", "export_run", (Path("."), ["onnx", "open_clip"], None)),
        (["efficiency", "a", "b"], "cmapkd.evaluation.efficiency", "print_efficiency", (["a", "b"], None, None)),
    ],
)  # fmt: skip
def test_a_command_calls_its_implementation_with_what_was_given(called, argv, module, name, expected):
    calls = called(module, name)
    assert run(*argv) == 0 and calls == [expected]


def test_the_groups_of_ablate_are_those_that_there_are():
    from cmapkd.experiments.ablation_groups import GROUPS

    assert dict(COMMANDS["ablate"].arguments)[("group",)]["choices"] == list(GROUPS)


def test_cache_estimate_is_passed_on(called):
    calls = called("cmapkd.train.setup.prepare", "build_cache")
    assert run("cache", "--config", "scenes", "--estimate") == 0 and calls[0][1] is True


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("w"), 2), (errors.DataError("w"), 3), (errors.IntegrityError("w"), 4),
        (errors.DiskError("w"), 5), (errors.NonFiniteError("w"), 6), (errors.PeerLostError("w"), 7),
        (KeyboardInterrupt(), 130), (OSError(errno.ENOSPC, "No space left on device", "f"), 5),
        (FileExistsError(errno.EEXIST, "File exists", "f"), 5), (PermissionError(errno.EACCES, "Permission denied", "f"), 5),
    ],
)  # fmt: skip
def test_each_kind_of_error_has_its_exit_code_and_one_line(called, capsys, error, code):
    called("cmapkd.experiments.demo", "demo", error)
    assert run("demo") == code
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1


def test_a_bug_shows_its_traceback_and_exits_1(called, capsys):
    called("cmapkd.experiments.demo", "demo", KeyError("ours"))
    assert run("demo") == 1 and "Traceback" in capsys.readouterr().err


def test_a_name_in_an_error_cannot_forge_a_second_line(called, capsys):
    called("cmapkd.experiments.demo", "demo", errors.DataError("file '\x1b[2Jx' is bad"))
    assert run("demo") == 3 and "\x1b" not in capsys.readouterr().err


def test_sigterm_ends_a_command_with_143():
    code = (
        "import sys, types, signal; m = types.ModuleType('cmapkd.experiments.demo')\n"
        "def demo(out):\n    print('ready', flush=True); signal.pause()\n"
        "m.demo = demo; sys.modules['cmapkd.experiments'] = types.ModuleType('cmapkd.experiments'); sys.modules[m.__name__] = m\n"
        "from cmapkd.cli.main import main; sys.exit(main(['demo']))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], env=ENVIRONMENT, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=LIMIT) == 143
    child.stdout.close()


def test_a_reader_that_leaves_early_is_no_bug():
    child = subprocess.Popen(
        [sys.executable, "-m", "cmapkd", "list", "towers"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None and child.stderr is not None
    child.stdout.close()
    assert b"Traceback" not in child.stderr.read() and child.wait(timeout=LIMIT) in (0, 141)
    child.stderr.close()


def test_init_writes_a_config_once_and_never_over_another_file(tmp_path, capsys):
    target = tmp_path / "my.yaml"
    assert run("init", "captions.json", "--out", str(target)) == 0 and "captions.json" in target.read_text()
    written = target.read_text()
    assert run("init", "other.json", "--out", str(target)) == 2 and target.read_text() == written
    assert run("init", "other.json", "--out", str(tmp_path / "no" / "x.yaml")) == 2
    assert "already exists" in capsys.readouterr().err


def test_init_writes_the_keys_that_read_the_data_which_is_there(tmp_path, capsys):
    path, target = coco(tmp_path, {"a.png": ["one"], "b.png": ["two"]}), tmp_path / "my.yaml"
    assert run("init", str(path), "--out", str(target)) == 0
    data = load_config(target).data
    assert (data.train, data.val, data.holdout) == (str(path), "holdout", 0.1) and data.views == 4
    assert run("init", str(tmp_path / "none.json"), "--out", str(tmp_path / "2.yaml")) == 0
    assert "none.json: no such file or folder yet" in capsys.readouterr().out
    path.write_text("{")
    assert run("init", str(path), "--out", str(tmp_path / "3.yaml")) == 3 and not (tmp_path / "3.yaml").exists()


@pytest.mark.parametrize("what", LISTS)
def test_list_prints_names_that_a_config_may_use(what, capsys):
    assert run("list", what) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    expected = {"methods": "cmapkd", "policies": "uniform", "tasks": "retrieval", "towers": "ViT-B-16", "families": "open_clip-siglip",
                "schedules": "all_on", "recipes": "scenes", "protocols": "first-caption", "suites": "photographs"}  # fmt: skip
    assert expected[what] in names and len(names) == len(set(names))
