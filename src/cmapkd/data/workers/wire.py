"""Frames over a socket between a process and its workers: four bytes of length, then the data."""

from __future__ import annotations

import socket
import struct

import numpy as np

LENGTH = struct.Struct("<I")


def send(connection: socket.socket, data: bytes) -> None:
    """Send one frame."""
    connection.sendall(LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket) -> bytes | None:
    """The next frame; None where the other side has closed the connection."""
    head = bytearray(LENGTH.size)
    if not fill(connection, memoryview(head)):
        return None
    data = bytearray(LENGTH.unpack(head)[0])
    return bytes(data) if fill(connection, memoryview(data)) else None


def receive_array(connection: socket.socket, shape: tuple[int, ...]) -> np.ndarray | None:
    """uint8 array of a shape, received in place; None where the other side has closed the connection."""
    array = np.empty(shape, np.uint8)
    return array if array.size == 0 or fill(connection, array.data.cast("B")) else None


def fill(connection: socket.socket, view: memoryview) -> bool:
    """Receive exactly len(view) bytes; False where the connection ends before."""
    while len(view):
        count = connection.recv_into(view)
        if not count:
            return False
        view = view[count:]
    return True
