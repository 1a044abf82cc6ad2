"""`cmapkd doctor`: installed and missing packages, hardware and disk. Imports no torch in this process."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from cmapkd.core import fsio
from cmapkd.core.prefetch import processors

MINIMUM = {  # lowest versions; torch's and transformers' are for security
    "torch": (2, 6),
    "torchvision": (0, 21),
    "open_clip_torch": (3, 2),
    "timm": (1, 0),
    "transformers": (5, 3),
    "safetensors": (0, 4),
    "msgspec": (0, 19),
    "numpy": (1, 26),
    "pillow": (10, 0),
}
EXTRAS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "track": ("tensorboard", "wandb"),
    "hf": ("pyarrow",),
    "fast": ("simplejpeg",),
    "remote": ("fsspec", "aiohttp"),
    "detection": ("faster-coco-eval",),
    "captioning": ("pycocoevalcap",),
    "dev": ("pytest", "ruff", "import-linter"),
}
PROBE = """
import torch
gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
print(f"{torch.get_num_threads()} threads; device: {', '.join(gpus) or 'cpu'}")
"""
PROBE_SECONDS = 120


def doctor() -> tuple[str, bool]:
    """(the report, whether CMAPKD can run here)."""
    needed = [requirement(name, floor) for name, floor in MINIMUM.items()]
    works, torch_line = probe_torch()
    lines = [
        f"cmapkd {version('cmapkd') or 'not installed (running from source)'}",
        f"python {platform.python_version()} on {platform.system()} {platform.machine()}, {processors()} cores",
        *[line for _, line in needed],
        f"{'ok     ' if works else 'MISSING'} torch runs: {torch_line}",
        f"disk: {fsio.free_bytes(Path.cwd()) / 1e9:.1f} GB free in {Path.cwd()}",
        *[extra(name, packages) for name, packages in EXTRAS.items()],
    ]
    return "\n".join(lines), works and all(fine for fine, _ in needed)


def requirement(name: str, floor: tuple[int, ...]) -> tuple[bool, str]:
    """(fulfilled, its line) of one required package."""
    found, least = version(name), ".".join(map(str, floor))
    if found is None:
        return False, f"MISSING {name}: pip install '{name}>={least}'"
    if numbers(found) < floor:
        return False, f"TOO OLD {name} {found}: pip install --upgrade '{name}>={least}'"
    return True, f"ok      {name} {found}"


def extra(name: str, packages: tuple[str, ...]) -> str:
    """The line of one optional group of packages."""
    missing = [package for package in packages if version(package) is None]
    if missing:
        return f"extra {name}: without {', '.join(missing)}; get it with: pip install 'cmapkd[{name}]'"
    return f"extra {name}: ok"


def probe_torch() -> tuple[bool, str]:
    """(works, threads and device, or the error), from another process: a broken torch must not end the doctor."""
    try:
        done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return False, f"importing it took more than {PROBE_SECONDS} s"
    if done.returncode:
        return False, (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
    return True, done.stdout.strip()


def version(package: str) -> str | None:
    """The installed version; None where the package is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: 2.11.0+cpu is (2, 11, 0)."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found.group().split(".")) if found else ()
