"""A worker process, `python -m cmapkd.data.workers.process DESCRIPTOR`: answers lists of jobs until its socket closes.

Imports no torch, so that a worker starts in a fraction of a second. It ends with its parent, however that ends, and ignores
the signals that stop a run: the parent finishes its step first.
"""

from __future__ import annotations

import signal
import socket
import sys

import msgspec

from cmapkd.data.workers.job import Message, job_of, work
from cmapkd.data.workers.wire import receive, send


def serve(connection: socket.socket) -> None:
    """Answer each frame of messages by one frame of reasons (None for a decoded image), then the pixels size by size."""
    decoder, encoder = msgspec.msgpack.Decoder(list[Message]), msgspec.msgpack.Encoder()
    while (frame := receive(connection)) is not None:
        found = [work(job_of(message)) for message in decoder.decode(frame)]
        send(connection, encoder.encode([result if isinstance(result, str) else None for result in found]))
        for column in zip(*(result for result in found if not isinstance(result, str)), strict=True):
            for pixels in column:
                connection.sendall(memoryview(pixels).cast("B"))


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        serve(socket.socket(fileno=int(sys.argv[1])))
    except (BrokenPipeError, ConnectionResetError):  # the parent has gone
        sys.exit(0)
