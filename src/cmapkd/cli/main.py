"""The command line: runs one command and turns errors into one line and an exit code. Imports no torch.

Exit codes: 0 ok, 1 a bug (with its traceback), 2 usage or config, 3 data, 4 integrity or stale, 5 disk,
6 non-finite, 7 a process of a run, a comparison or a cache was lost, 130 interrupted, 141 output pipe closed, 143 terminated.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import signal
import sys
import threading
import traceback
from typing import NoReturn

from cmapkd.cli.command_table import COMMANDS, Command
from cmapkd.core.errors import CmapkdError, DiskError, UsageError, did_you_mean
from cmapkd.distributed.place import place_of

OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=.*", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError with the nearest valid option instead of ending the process."""

    def read(self, words: list[str]) -> argparse.Namespace:
        """Parse; an unknown option is reported before a missing one, since it may be its misspelling."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        wrong = next((w for word in words if (w := word.partition("=")[0]).startswith("--") and w not in flags), "--")
        if wrong != "--":
            self.error(f"unrecognized arguments: {wrong}{did_you_mean(wrong, flags)}")
        return self.parse_args(words)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code; errors that the user can act on are one line on stderr."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    try:
        return dispatch(sys.argv[1:] if argv is None else argv)
    except CmapkdError as error:
        return error.code if error.told else fail(str(error), error.code)
    except KeyboardInterrupt:
        return fail("interrupted; what was saved is intact", 128 + signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit fails once more
        return 128 + signal.SIGPIPE
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return fail(f"disk full: {error}; what was saved is intact; free some space and repeat", DiskError.code)
        if isinstance(error, OSError) and error.filename is not None and error.strerror:
            message = f"{os.fsdecode(error.filename)}: {error.strerror}; what was saved before is intact"
            return fail(f"{message}; check that path, its permissions and the disk, then repeat", DiskError.code)
        traceback.print_exc()
        return 1


def dispatch(argv: list[str]) -> int:
    """Parse and call the command. Raises UsageError for a wrong command line, and what the command raises."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0 if argv else UsageError.code
    if argv[0] == "--version":
        from cmapkd import __version__

        print(f"cmapkd {__version__}")
        return 0
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        raise UsageError(f"unknown command '{name}'; commands: {', '.join(COMMANDS)}{did_you_mean(name, COMMANDS)}")
    command = COMMANDS[name]
    overrides = [word for word in rest if command.overrides and OVERRIDE.fullmatch(word)]
    got = parser(name, command).read([word for word in rest if word not in overrides])
    refuse_several(name, command)
    if getattr(got, "download", False):
        from cmapkd.config.sources import DOWNLOAD

        os.environ[DOWNLOAD] = "1"
    if "devices" in got and got.devices is not None:
        overrides = [*overrides, f"train.devices={got.devices}"]
    if command.overrides and got.config is not None:
        from cmapkd.config.load import load_config

        got.config = load_config(got.config, overrides)
    return command.run(got) or 0


def refuse_several(name: str, command: Command) -> None:
    """Raise UsageError for a command that torchrun or srun started several times, and that is no work for several."""
    if not command.several and (count := place_of().world) > 1:
        raise UsageError(
            f"{name} was started in {count} processes; start it once, and set train.devices where its runs shall take several"
        )


def parser(name: str, command: Command) -> Parser:
    """The parser of one command; key=value words are removed before it parses, so they may stand anywhere."""
    note = "KEY=VALUE words set keys of the config for this call: train.steps=100" if command.overrides else None
    out = Parser(prog=f"cmapkd {name}", description=command.about, epilog=note, allow_abbrev=False)
    for names, settings in command.arguments:
        out.add_argument(*names, **settings)
    return out


def usage() -> str:
    """The text of `cmapkd --help`."""
    rows = "\n".join(f"  {name:<11} {command.about}" for name, command in COMMANDS.items())
    return f"""\
usage: cmapkd COMMAND [OPTIONS]

Distil a CLIP-like model into a smaller one.

{rows}

  cmapkd COMMAND --help   the options of a command
  cmapkd --version        the version
"""


def fail(message: str, code: int) -> int:
    """Print each line of the message as an error and return the code."""
    from cmapkd.core.log import say

    rank = os.environ.get("RANK", "0")
    for line in message.splitlines() or [""]:
        say(f"error: {line}" if rank == "0" else f"rank {rank}: error: {line}")
    return code


def _terminate(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)
