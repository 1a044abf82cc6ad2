"""One image to decode: where it is, which view of it, at which sizes; and the work itself."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec import Struct

from cmapkd.core.errors import CmapkdError
from cmapkd.data.decoders import rendered
from cmapkd.data.images import Unreadable, reason_of
from cmapkd.data.stored import Member, Picture, Region
from cmapkd.data.views import view_of

Pixels = list[np.ndarray]  # uint8 [3, size, size] for each size


class Shown(Struct, array_like=True, frozen=True):
    """View number `view` of image number `sample` under data.views, crop and flip, at each of `sizes` (pixels), from data.decoder."""

    sample: int
    view: int
    views: int
    crop: tuple[float, float]
    flip: bool
    sizes: tuple[int, ...]
    decoder: str = "pillow"


@dataclass(frozen=True)
class Job:
    """An image and what is to be seen of it."""

    picture: Picture
    shown: Shown


class Message(Struct, array_like=True):
    """A job as sent to a worker: an image file, a part of a file, a region of an image, or encoded bytes."""

    path: bytes
    part: tuple[int, int] | None  # offset, length
    box: tuple[float, float, float, float] | None
    frame: tuple[int, int] | None
    data: bytes | None
    shown: Shown


@dataclass(frozen=True)
class Encoded:
    """The bytes of an image that were read elsewhere."""

    name: str
    data: bytes

    def length(self) -> int:
        return len(self.data)

    def read(self) -> bytes:
        return self.data


def work(job: Job) -> Pixels | str:
    """The pixels of a job, or the reason why its image is unreadable."""
    shown = job.shown
    view = view_of(shown.sample, shown.view, shown.views, shown.crop, shown.flip)
    try:
        return rendered(job.picture, view, shown.sizes, shown.decoder)
    except Unreadable as error:
        return error.reason


def message_of(job: Job) -> Message | str:
    """A job for a worker, or the reason why the image cannot be read. Bytes in containers other than tars are read here."""
    picture = job.picture
    path, part, box, frame, data = b"", None, None, None, None
    if isinstance(picture, Region):
        path, box, frame = os.fsencode(picture.path), picture.box, picture.frame
    elif isinstance(picture, Path):
        path = os.fsencode(picture)
    elif isinstance(picture, Member):
        path, part = os.fsencode(picture.path), (picture.offset, picture.size)
    else:
        try:
            data = picture.read()
        except CmapkdError:
            raise
        except Exception as error:
            return reason_of(picture, error)
    return Message(path, part, box, frame, data, job.shown)


def job_of(message: Message) -> Job:
    """The job of a message."""
    path = Path(os.fsdecode(message.path))
    picture: Picture = path
    if message.data is not None:
        picture = Encoded("", message.data)
    elif message.part is not None:
        picture = Member(path, "", *message.part)
    elif message.box is not None:
        picture = Region(path, message.box, message.frame)
    return Job(picture, message.shown)
