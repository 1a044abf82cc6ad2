"""What no single module can promise: imports run one way, nothing unsafe is on disk, no file knows a machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from cmapkd.cli import doctor

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "cmapkd").rglob("*.py"))
MAY_IMPORT_LOSSES = {"typing", "__future__", "collections", "dataclasses", "itertools", "math", "jaxtyping", "torch"}
ADDRESS = re.compile(
    r"(py" r"pi|pythonhosted|npm" r"js|registry\.yarn|conda\.anaconda|download\.pytorch)\.(org|com)", re.I
)
MACHINE = re.compile(r"(?<![\w.$}])/(work|root|home|Users|opt|mnt)/[A-Za-z0-9_.]")
# Needed by open_clip and not imported by us by name: our floors for them are the reason to name them.
INDIRECT = {"timm", "torchvision", "transformers"}
# Of the extras: what is looked up by name when it is wanted, and what is needed by something that we import: torch.onnx and
# its writer, torch.utils.tensorboard.
NOT_BY_NAME = {"faster-coco-eval", "onnx", "onnxscript", "pyarrow", "pycocoevalcap", "tensorboard"}


def tracked() -> list[Path]:
    """Files that a clone has; without git (an unpacked archive) all that is not hidden."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = listed.stdout.splitlines() if listed.returncode == 0 else []
    paths = [ROOT / name for name in names] or [p for p in ROOT.rglob("*") if not any(x[0] == "." for x in p.parts[1:])]
    return [path for path in paths if path.is_file()]


def texts() -> Iterator[tuple[str, str]]:
    for path in tracked():
        if path.stat().st_size < 2_000_000:
            content = path.read_bytes()
            if b"\x00" not in content:
                yield str(path.relative_to(ROOT)), content.decode("utf-8", errors="replace")


def imports(path: Path) -> list[str]:
    """Dotted names of all that a file imports, wherever in the file."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def test_imports_run_one_way():
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"PYTHONPATH": "src", "PATH": ""})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "src/cmapkd/losses").glob("*.py")), ids=lambda path: path.stem)
def test_a_loss_knows_nothing_but_torch_and_the_nouns(path):
    ours = ("cmapkd.losses.", "cmapkd.core.types.", "cmapkd.pyramid.resample.")
    wrong = [n for n in imports(path) if not n.startswith(ours) and n.split(".")[0] not in MAY_IMPORT_LOSSES]
    assert not wrong


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src/cmapkd")))
def test_nothing_reads_or_writes_pickles_or_runs_others_code(path):
    unsafe = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "joblib", "marshal"}
    assert not unsafe & {name.split(".")[0] for name in imports(path)}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        assert called not in ("eval", "exec", "torch.save", "os.system"), f"line {node.lineno}"
        assert called != "torch.load" or given.get("weights_only") == "True", f"line {node.lineno}"
        assert not called.endswith(("np.load", "numpy.load")) or given.get("allow_pickle") != "True", (
            f"line {node.lineno}"
        )
        assert given.get("trust_remote_code") in (None, "False"), f"line {node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src/cmapkd")))
def test_a_module_says_first_what_it_holds_and_has_no_vague_name(path):
    assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or not tree.body


def test_no_file_holds_an_address_of_a_registry_or_a_path_of_a_machine():
    found = [
        f"{name}: {match.group()}"
        for name, text in texts()
        for match in [*ADDRESS.finditer(text), *MACHINE.finditer(text)]
    ]
    assert not found


def canonical(name: str) -> str:
    """The name of a requirement, as registries compare names."""
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=!~\[; ]", name)[0]).lower()


def test_every_package_of_an_extra_is_used_and_the_doctor_knows_it():
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    extras = {extra: {canonical(name) for name in names} for extra, names in groups.items() if extra != "dev"}
    used = {canonical(name.split(".")[0]) for path in SOURCES for name in imports(path)} | NOT_BY_NAME
    assert not {extra: packages - used for extra, packages in extras.items() if packages - used}
    assert {extra: set(packages) for extra, packages in doctor.EXTRAS.items() if extra != "dev"} == extras


def test_every_third_party_import_is_declared_and_every_declared_package_is_used():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    owners = metadata.packages_distributions()
    needed = {canonical(requirement) for requirement in project["dependencies"]}
    extras = {canonical(name) for group in project["optional-dependencies"].values() for name in group}
    used = set()
    for path in SOURCES:
        for top in {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - {"cmapkd"}:
            packages = {canonical(package) for package in owners.get(top, [top])}
            assert packages & (needed | extras), f"{path.name} imports {top}, which pyproject.toml does not name"
            used |= packages
    assert needed - used <= INDIRECT


def test_constraints_are_names_and_versions_only():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.]+", line) for line in lines)
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    assert {"torch", "torchvision", "open-clip-torch", "transformers", "msgspec", "pytest"} <= pinned


def test_what_the_program_reads_at_run_time_lies_inside_the_package():
    package = ROOT / "src" / "cmapkd"
    for pattern in ("recipes/*.yaml", "towers/configs/*.json", "report/templates/*.j2"):
        assert list(package.glob(pattern)), pattern


def test_a_wrong_shape_is_found_while_tests_run():
    from cmapkd.losses.relation import relation

    relation(torch.ones(4, 3), torch.ones(4, 2))
    with pytest.raises(TypeCheckError):
        relation(torch.ones(4, 3), torch.ones(5, 2))
