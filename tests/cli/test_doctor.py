"""`cmapkd doctor`: missing and old packages, and a broken torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cmapkd.cli import doctor

ROOT = Path(__file__).parents[2]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}


def test_doctor_tells_what_is_missing_and_how_to_get_it(monkeypatch):
    found = {"torch": "2.5.1+cpu", "transformers": None}
    monkeypatch.setattr(doctor, "version", lambda name: found.get(name, "99.0"))
    monkeypatch.setattr(doctor, "probe_torch", lambda: (True, "2 threads; device: cpu"))
    text, works = doctor.doctor()
    assert not works
    assert "TOO OLD torch 2.5.1+cpu: pip install --upgrade 'torch>=2.6'" in text
    assert "MISSING transformers: pip install 'transformers>=5.3'" in text


def test_doctor_survives_a_torch_that_cannot_be_imported(monkeypatch):
    monkeypatch.setattr(doctor, "PROBE", "raise ImportError('libcudart is missing')")
    assert doctor.probe_torch() == (False, "ImportError: libcudart is missing")
    monkeypatch.setattr(doctor, "PROBE", "import os; os.abort()")
    assert not doctor.probe_torch()[0]


def test_doctor_reports_an_extra_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda name: None if name == "wandb" else "1")
    assert doctor.extra("track", ("tensorboard", "wandb")).endswith(
        "without wandb; get it with: pip install 'cmapkd[track]'"
    )


def test_doctor_imports_no_torch_itself():
    code = (
        "import sys; from cmapkd.cli import doctor; doctor.probe_torch = lambda: (True, '')\n"
        "doctor.doctor(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)
