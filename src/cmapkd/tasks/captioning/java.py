"""METEOR and SPICE by their authors' Java programs, where these are installed; otherwise a note gives the reason."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cmapkd.core.log import Progress, say

SPICE_HOME = "CMAPKD_SPICE_HOME"
CORENLP = "stanford-corenlp-3.6.0"
TIMEOUT = 3600  # seconds, of a whole SPICE run
Texts = Sequence[str]


class NotRun(Exception):
    """A metric cannot be computed; the message is the reason."""


def java_metrics(candidates: Texts, references: Sequence[Texts]) -> tuple[dict[str, float], tuple[str, ...]]:
    """({meteor, spice} as far as they can be run, a note with the reason for each that cannot)."""
    found, notes = {}, []
    for name, run in (("meteor", meteor), ("spice", spice)):
        try:
            found[name] = run(candidates, references)
        except NotRun as error:
            notes.append(f"{name} not run: {error}")
    return found, tuple(notes)


def meteor(candidates: Texts, references: Sequence[Texts]) -> float:
    """METEOR 1.5 (Denkowski and Lavie 2014) with `-l en -norm`, by the jar that pycocoevalcap ships. Raises NotRun."""
    java, jar = _java(), _shipped() / "meteor" / "meteor-1.5.jar"
    if not jar.is_file():
        raise NotRun(f"{jar.name} is not in pycocoevalcap's folder; install the package again")
    command = [java, "-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
    # stderr goes to a file: an unread pipe would block the program when it is full.
    with tempfile.TemporaryFile() as errors:
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True, encoding="utf-8")
        except OSError as error:
            raise NotRun(f"java cannot be started ({error})") from None
        say(f"METEOR: {len(candidates)} captions; its program takes some seconds to start")
        try:
            statistics, progress = [], Progress(len(candidates), "METEOR")
            for place, (candidate, truths) in enumerate(zip(candidates, references, strict=True), 1):
                statistics.append(_ask(process, " ||| ".join(("SCORE", *map(one_line, truths), one_line(candidate)))))
                if place > 1:  # the first waits for Java to start and says nothing of the rate
                    progress.update(place)
            progress.close()
            _tell(process, " ||| ".join(("EVAL", *statistics)))
            for _ in candidates:
                _hear(process)
            return float(_hear(process))
        except (OSError, ValueError):
            errors.seek(0)
            said = errors.read().decode("utf-8", "replace").strip().splitlines()
            raise NotRun(f"METEOR ended early ({said[0][:120] if said else 'without a message'})") from None
        finally:
            process.kill()
            process.communicate()


def spice(candidates: Texts, references: Sequence[Texts]) -> float:
    """SPICE 1.0 (Anderson et al. 2016, arXiv:1607.08822), F of scene graphs. Raises NotRun.

    CMAPKD_SPICE_HOME: a folder with spice-1.0.jar, and CoreNLP 3.6.0 with its models in lib/.
    """
    java, home = _java(), Path(os.environ.get(SPICE_HOME, ""))
    if not os.environ.get(SPICE_HOME):
        raise NotRun(f"{SPICE_HOME} is not set; it names the folder of spice-1.0.jar with CoreNLP 3.6.0 in lib/")
    for name in ("spice-1.0.jar", f"lib/{CORENLP}.jar", f"lib/{CORENLP}-models.jar"):
        if not (home / name).is_file():
            raise NotRun(f"{home / name} is missing")
    with tempfile.TemporaryDirectory() as folder:
        asked, told = Path(folder) / "in.json", Path(folder) / "out.json"
        rows: list[dict[str, Any]] = [
            {"image_id": i, "test": one_line(candidate), "refs": [one_line(text) for text in truths]}
            for i, (candidate, truths) in enumerate(zip(candidates, references, strict=True))
        ]
        asked.write_text(json.dumps(rows))
        say(f"SPICE: {len(rows)} captions, without progress until it ends")
        command = [java, "-Xmx8G", "-jar", str(home / "spice-1.0.jar"), str(asked), "-out", str(told), "-silent"]
        try:
            done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            raise NotRun(f"SPICE took more than {TIMEOUT} s") from None
        except OSError as error:
            raise NotRun(f"java cannot be started ({error})") from None
        if done.returncode or not told.is_file():
            said = done.stderr.strip().splitlines()
            raise NotRun(f"SPICE failed ({said[0][:120] if said else 'without a message'})")
        try:
            scores = [float(row["scores"]["All"]["f"]) for row in json.loads(told.read_bytes())]
        except (ValueError, KeyError, TypeError):
            raise NotRun("SPICE wrote no scores that can be read") from None
        if len(scores) != len(candidates):
            raise NotRun(f"SPICE scored {len(scores)} of {len(candidates)} captions")
    return sum(scores) / len(scores)


def one_line(text: str) -> str:
    """Text that cannot break the line protocol: no line ends, no `|||`, which separates its fields."""
    return " ".join(text.replace("|||", " ").split())


def _java() -> str:
    java = shutil.which("java")
    if java is None:
        raise NotRun("java is not on the path; install a Java runtime")
    return java


def _shipped() -> Path:
    try:
        spec = importlib.util.find_spec("pycocoevalcap")
    except (ImportError, ValueError):
        spec = None
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places:
        raise NotRun("pycocoevalcap, which ships its jar, is not installed; pip install 'cmapkd[captioning]'")
    return Path(places[0])


def _ask(process: subprocess.Popen[str], line: str) -> str:
    _tell(process, line)
    return _hear(process)


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None, "the process was started with pipes"
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def _hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None, "the process was started with pipes"
    line = process.stdout.readline()
    if not line:
        raise ValueError("no answer")
    return line.strip()
