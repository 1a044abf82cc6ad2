"""Rendering of a scene, and the bounding box of each object in it."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from cmapkd.data.scenes.world import BACKGROUNDS, COLOURS, SIDE, SIZES, Scene, Thing

SCALE = 2  # rendered at twice the size and downscaled, for smooth edges


def paint(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """The scene as a 64×64 RGB image."""
    side = SIDE * SCALE
    base = np.asarray(BACKGROUNDS[scene.background], dtype=np.float32)
    canvas = np.broadcast_to(base, (side, side, 3)).copy()
    if scene.gradient:
        canvas *= np.linspace(0.75, 1.1, side, dtype=np.float32)[:, None, None]
    canvas += rng.normal(0, 6, (side // 4, side // 4, 1)).astype(np.float32).repeat(4, 0).repeat(4, 1)
    rows, columns = np.mgrid[0:side, 0:side]
    for thing in scene.things:
        mask = np.asarray(_mask(thing, side), dtype=bool)
        colour = np.asarray(COLOURS[thing.colour], dtype=np.float32) * rng.uniform(0.85, 1.1)
        canvas[mask] = colour
        if thing.texture == "striped":
            canvas[mask & ((rows + columns) % 12 < 4)] = colour * 0.35
        elif thing.texture == "dotted":
            canvas[mask & ((rows % 8 < 4) & (columns % 8 < 4))] = 255 - (255 - colour) * 0.2
    image = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)


def box_of(thing: Thing) -> tuple[int, int, int, int]:
    """x, y, width, height in pixels of a whole object, including covered parts."""
    left, top, right, bottom = _mask(thing, SIDE * SCALE).getbbox() or (0, 0, SCALE, SCALE)
    x, y = left // SCALE, top // SCALE
    return x, y, -(-right // SCALE) - x, -(-bottom // SCALE) - y


def _mask(thing: Thing, side: int) -> Image.Image:
    mask = Image.new("1", (side, side))
    pen, r = ImageDraw.Draw(mask), SIZES[thing.size] * SCALE
    cx, cy = thing.x * SCALE, thing.y * SCALE

    def polygon(points: list[tuple[float, float]]) -> None:
        pen.polygon([(cx + r * x, cy + r * y) for x, y in points], fill=1)

    def turn(n: int, radii: tuple[float, ...]) -> list[tuple[float, float]]:
        return [
            (
                radii[k % len(radii)] * math.sin(2 * math.pi * k / n),
                -radii[k % len(radii)] * math.cos(2 * math.pi * k / n),
            )
            for k in range(n)
        ]

    if thing.shape in ("circle", "ring"):
        pen.ellipse((cx - r, cy - r, cx + r, cy + r), fill=1)
        if thing.shape == "ring":
            inner = 0.5 * r
            pen.ellipse((cx - inner, cy - inner, cx + inner, cy + inner), fill=0)
    elif thing.shape == "square":
        pen.rectangle((cx - 0.85 * r, cy - 0.85 * r, cx + 0.85 * r, cy + 0.85 * r), fill=1)
    elif thing.shape == "triangle":
        polygon([(0, -1), (0.95, 0.8), (-0.95, 0.8)])
    elif thing.shape == "star":
        polygon(turn(10, (1.1, 0.45)))
    elif thing.shape == "cross":
        pen.rectangle((cx - r, cy - 0.33 * r, cx + r, cy + 0.33 * r), fill=1)
        pen.rectangle((cx - 0.33 * r, cy - r, cx + 0.33 * r, cy + r), fill=1)
    elif thing.shape == "diamond":
        polygon(turn(4, (1.15,)))
    else:
        pen.ellipse((cx - r, cy - 0.8 * r, cx, cy + 0.2 * r), fill=1)
        pen.ellipse((cx, cy - 0.8 * r, cx + r, cy + 0.2 * r), fill=1)
        polygon([(-0.93, -0.1), (0.93, -0.1), (0, 1)])
    return mask
