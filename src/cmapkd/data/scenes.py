"""The built-in world: seeded, rendered scenes with true captions. Synthetic, so that a fresh machine needs no download."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from cmapkd.core import fsio
from cmapkd.core.order import keyed

SIDE = 64
SCALE = 2  # drawn at twice the size and reduced, for smooth edges
COLOURS = {
    "red": (214, 40, 40), "green": (42, 157, 80), "blue": (38, 84, 212), "yellow": (244, 208, 32),
    "purple": (140, 60, 190), "orange": (244, 130, 30), "cyan": (60, 200, 220), "brown": (120, 72, 40),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart")
TEXTURES = ("plain", "striped", "dotted")
SIZES = {"small": 7.0, "large": 12.0}
BACKGROUNDS = {"white": (244, 244, 244), "grey": (150, 150, 150), "black": (24, 24, 24), "pink": (250, 200, 210), "beige": (226, 210, 170)}
NUMBERS = ("no", "one", "two", "three", "four")
SPLITS = {"train": 1, "val": 2, "test": 3}


@dataclass(frozen=True)
class Thing:
    """One object; x and y are the centre in pixels."""

    shape: str
    colour: str
    size: str
    texture: str
    x: float
    y: float


@dataclass(frozen=True)
class Scene:
    background: str
    gradient: bool
    things: tuple[Thing, ...]


def draw_scene(rng: np.random.Generator, count: int | None = None) -> Scene:
    """1-4 objects on a jittered 3×3 grid, so that no two overlap much and relations are clear.

    Colours and shapes of a scene are drawn from a palette of two or three each: scenes share objects and differ in
    relations, textures, sizes and counts.
    """
    count = count or int(rng.choice([1, 2, 3, 4], p=[0.1, 0.35, 0.35, 0.2]))
    colours = rng.choice(list(COLOURS), size=min(3, max(2, count)), replace=False)
    shapes = rng.choice(SHAPES, size=2 if count < 4 else 3, replace=False)
    cells = rng.choice(9, size=count, replace=False)
    things = []
    for cell in cells:
        x = (cell % 3 + 0.5) * SIDE / 3 + rng.uniform(-3, 3)
        y = (cell // 3 + 0.5) * SIDE / 3 + rng.uniform(-3, 3)
        texture = str(rng.choice(TEXTURES, p=[0.5, 0.25, 0.25]))
        things.append(Thing(str(rng.choice(shapes)), str(rng.choice(colours)), str(rng.choice(list(SIZES))), texture, float(x), float(y)))
    return Scene(str(rng.choice(list(BACKGROUNDS))), bool(rng.integers(2)), tuple(things))


def captions_of(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Five true sentences of different form and detail."""
    things, ground = list(scene.things), f"{'a' if scene.background[0] not in 'aeiou' else 'an'} {scene.background} background"
    order = rng.permutation(len(things))
    first = things[order[0]]
    if len(things) == 1:
        full = describe(first, 3)
        return [
            f"{full} on {ground} .",
            f"there is {describe(first, 2)} and nothing else .",
            f"a picture of {describe(first, 1)} .",
            f"{describe(first, 2)} {place(first)} .",
            f"a single {first.colour} {first.shape} , {first.texture} and {first.size} .",
        ]
    second, last, other = things[order[1]], things[order[-1]], things[order[len(things) // 2]]
    listed = [describe(things[k], 1) for k in rng.permutation(len(things))]
    return [
        f"{describe(first, 3)} {relation(first, second)} {describe(second, 3)} .",
        f"{', '.join(listed[:-1])} and {listed[-1]} on {ground} .",
        f"{describe(last, 2)} is {relation(last, first)} {describe(first, 2)} .",
        f"{counted(things)} on {ground} , with {describe(second, 3)} .",
        f"{describe(other, 2)} {place(other)} , with {NUMBERS[len(things) - 1]} other {'object' if len(things) == 2 else 'objects'} .",
    ]


def describe(thing: Thing, detail: int) -> str:
    """1: colour and shape; 2: with texture; 3: with size and texture."""
    words = [thing.colour, thing.shape]
    if detail >= 2 and thing.texture != "plain":
        words.insert(0, thing.texture)
    if detail >= 3:
        words.insert(0, thing.size)
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"


def relation(a: Thing, b: Thing) -> str:
    dx, dy = a.x - b.x, a.y - b.y
    if abs(dx) > abs(dy):
        return "to the left of" if dx < 0 else "to the right of"
    return "above" if dy < 0 else "below"


def place(thing: Thing) -> str:
    across = "left" if thing.x < SIDE * 0.4 else "right" if thing.x > SIDE * 0.6 else ""
    down = "top" if thing.y < SIDE * 0.4 else "bottom" if thing.y > SIDE * 0.6 else ""
    where = f"{down} {across}".strip()
    return f"at the {where}" if where else "in the middle"


def counted(things: list[Thing]) -> str:
    """`there are two stars and one ring`, shapes in order of appearance."""
    names = list(dict.fromkeys(thing.shape for thing in things))
    parts = []
    for name in names:
        n = sum(thing.shape == name for thing in things)
        plural = name if n == 1 else f"{name}es" if name.endswith("s") else f"{name}s"
        parts.append(f"{NUMBERS[n]} {plural}")
    return f"there {'is' if things and parts[0].startswith('one') else 'are'} {' and '.join(parts)}"


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


def _mask(thing: Thing, side: int) -> Image.Image:
    mask = Image.new("1", (side, side))
    pen, r = ImageDraw.Draw(mask), SIZES[thing.size] * SCALE
    cx, cy = thing.x * SCALE, thing.y * SCALE

    def polygon(points: list[tuple[float, float]]) -> None:
        pen.polygon([(cx + r * x, cy + r * y) for x, y in points], fill=1)

    def turn(n: int, radii: tuple[float, ...]) -> list[tuple[float, float]]:
        return [(radii[k % len(radii)] * math.sin(2 * math.pi * k / n), -radii[k % len(radii)] * math.cos(2 * math.pi * k / n)) for k in range(n)]

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


def write_scenes(folder: Path, n: int, seed: int) -> None:
    """n scenes as images/, captions.json (COCO captions), scenes.json (what is where) and README.txt, in `folder`.

    Image i depends on (seed, i) alone. The folder appears whole or not at all.
    """
    temporary = folder.with_name(folder.name + ".tmp")
    (temporary / "images").mkdir(parents=True, exist_ok=True)
    images, annotations, scenes = [], [], []
    for i in range(n):
        rng = np.random.default_rng(keyed(seed, i))
        scene = draw_scene(rng)
        name = f"{seed}_{i:06d}.png"
        paint(scene, rng).save(temporary / "images" / name, compress_level=1)
        images.append({"id": i, "file_name": name, "width": SIDE, "height": SIDE})
        annotations += [{"id": 5 * i + k, "image_id": i, "caption": text} for k, text in enumerate(captions_of(scene, rng))]
        scenes.append({"id": i, **asdict(scene)})
    info = {"description": "SYNTHETIC scenes rendered by cmapkd; not photographs", "seed": seed}
    fsio.write_bytes(temporary / "captions.json", json.dumps({"info": info, "images": images, "annotations": annotations}).encode())
    fsio.write_bytes(temporary / "scenes.json", json.dumps(scenes).encode())
    fsio.write_bytes(temporary / "README.txt", b"Synthetic scenes rendered by cmapkd. Not photographs; figures on them say nothing about photographs.\n")
    fsio.commit_dir(temporary, folder)


def write_single_objects(folder: Path, per_class: int, seed: int) -> None:
    """A class folder per `colour shape`, one object an image: labelled data for zero-shot classification."""
    temporary = folder.with_name(folder.name + ".tmp")
    for c, (colour, shape) in enumerate((c, s) for c in COLOURS for s in SHAPES):
        (temporary / f"{colour} {shape}").mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            rng = np.random.default_rng(keyed(seed, c, i, 99))
            scene = draw_scene(rng, count=1)
            thing = Thing(shape, colour, scene.things[0].size, scene.things[0].texture, scene.things[0].x, scene.things[0].y)
            paint(Scene(scene.background, scene.gradient, (thing,)), rng).save(temporary / f"{colour} {shape}" / f"{i}.png", compress_level=1)
    fsio.commit_dir(temporary, folder)
