"""Structure of the source tree in numbers: `python -m benchmarks.structure`; with --trace also one training step's files."""

from __future__ import annotations

import ast
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "cmapkd"
NOUNS = {"Batch", "Inputs", "Features", "StepInputs", "Prepared", "TeacherOutputs", "StudentOutputs", "View"}
ADAPTERS = ("towers", "export", "data/readers")  # where other libraries' untyped objects enter


def sources() -> Iterator[tuple[Path, str]]:
    """Every source file of the package with its text."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE), path.read_text(encoding="utf-8")


def modules_imported(path: Path, text: str) -> set[str]:
    """Modules of the package that a file imports when it is imported itself."""
    known = {str(p.with_suffix("")).replace("/", ".").removesuffix(".__init__") for p, _ in sources()}
    found = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cmapkd."):
            module = (node.module or "").removeprefix("cmapkd.")
            inner = {f"{module}.{alias.name}" for alias in node.names} & known
            found |= inner or {module}
    return found


def circles(graph: dict[str, set[str]]) -> int:
    """Modules that are part of an import circle."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen, todo = set(), list(graph[start])
        while todo:
            if (node := todo.pop()) not in seen:
                seen.add(node)
                todo += graph.get(node, ())
        reach[start] = seen
    return sum(name in reach[name] for name in graph)


def against_layers() -> int:
    """Imports that break the contracts in pyproject.toml."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return len(re.findall(r"^- cmapkd", done.stdout, re.MULTILINE))


def functions(text: str) -> Iterator[int]:
    """Lines of every function."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1


def measure() -> dict[str, float]:
    """The figures of docs/decisions/0014-the-house.md."""
    texts = dict(sources())
    graph = {
        str(path.with_suffix("")).replace("/", ".").removesuffix(".__init__"): modules_imported(path, text)
        for path, text in texts.items()
    }
    outside = [text for path, text in texts.items() if not str(path).startswith(ADAPTERS)]
    extra = re.compile(r"\[:, :?-2\]|\[:, -2:\]|== \"P5\"|\"P5\" else")
    return {
        "files": len(texts),
        "files that take the whole Config": sum(bool(re.search(r"\bConfig\b", text)) for text in texts.values()),
        "modules in import circles": circles(graph),
        "imports against the layers": against_layers(),
        "most files in a folder": max(Counter(path.parent for path in texts).values()),
        "lines of the median file": statistics.median(len(text.splitlines()) for text in texts.values()),
        "lines of the longest function": max(n for text in texts.values() for n in functions(text)),
        "functions above 50 lines": sum(n > 50 for text in texts.values() for n in functions(text)),
        "files with Any outside adapters": sum(bool(re.search(r"\bAny\b", text)) for text in outside),
        "files that treat P5 apart": sum(bool(extra.search(text)) for text in texts.values()),
    }


def trace() -> dict[str, float]:
    """Files of the package that run while one batch goes from the loader to the weights, from a cache, and those that it is handed to."""
    sys.path += [str(ROOT / "tests")]
    import torch

    from golden import curves  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    files: set[str] = set()
    hops: set[str] = set()
    counting = [False]

    def spy(frame: FrameType, event: str, _: object) -> None:
        if event != "call" or not counting[0]:
            return
        here = frame.f_code.co_filename
        if str(PACKAGE) not in here:
            return
        files.add(here)
        given = [frame.f_locals.get(name) for name in frame.f_code.co_varnames[: frame.f_code.co_argcount]]
        if any(type(value).__name__ in NOUNS for value in given):
            hops.add(hop_of(str(Path(here).relative_to(PACKAGE))))

    with tempfile.TemporaryDirectory() as folder:
        curves.run(Path(folder), "cmapkd cached")
        from cmapkd.train import loop

        real = loop.step_inputs

        def step_inputs(run, prepared, step):
            counting[0] = step == 6
            return real(run, prepared, step)

        loop.step_inputs = step_inputs
        import shutil

        shutil.rmtree(Path(folder) / "runs")
        sys.setprofile(spy)
        threading.setprofile(spy)
        curves.run(Path(folder), "cmapkd cached")
        sys.setprofile(None)
        threading.setprofile(None)
    passed = sorted(hops - {""})
    print(", ".join(passed), file=sys.stderr)
    return {"files of one step": len(files), "hops of one batch": len(passed)}


def hop_of(file: str) -> str:
    """The stop of a batch that a file is: all terms are one, each tower's adapters are one, nouns and trees are none."""
    if file.startswith("core/") or file == "methods/view.py":
        return ""
    if file.startswith("methods/") and Path(file).stem != "objective":
        return "methods/ (the terms)"
    return "towers/" if file.startswith(("towers/", "models/")) else file


if __name__ == "__main__":
    print(json.dumps(measure() | (trace() if "--trace" in sys.argv else {}), indent=1))
