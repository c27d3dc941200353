"""Pictures for the base model: what it may look at before any check exists, and what it is asked about them.

Three kinds: text (lettering of any sort, where tilt and softness are drawn independently of each other, so that
neither check label can be read off), shapes and single letters, and absorption pictures of belongings and of plain
outlines. No threat is ever drawn here, and no question of a check is ever asked.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from models.pocket.scenes import baggage, canvas, lettering, overlay
from models.pocket.scenes.belongings import EVERYDAY, LENGTHS
from models.pocket.scenes.fonts import LETTERS, WORDS, any_font
from models.pocket.scenes.scene import Mask, dice
from models.pocket.scenes.xray import MATERIALS, Depths, Part, Point, develop, fog, oval, rect, ring

CORNERS = ("top left", "top right", "bottom left", "bottom right")
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
COLOURS = {
    "red": (220, 40, 40), "green": (40, 170, 60), "blue": (40, 70, 220), "yellow": (235, 215, 50),
    "white": (250, 250, 250), "black": (10, 10, 10), "purple": (150, 50, 180), "orange": (245, 140, 30),
}  # fmt: skip
TEXT_PLANES = ("glyph", "level", "tilted", "sharp", "soft")
OUTLINES = ("wedge", "elbow", "crossing", "loops", "flask", "bar", "disc")
# What the dense loss asks of every 32 x 32 pixel cell; one plane each.
PLANES = (*TEXT_PLANES, *SHAPES, *EVERYDAY, *OUTLINES)


@dataclass(frozen=True, kw_only=True)
class TrainingQuestion:
    """One question with its options in menu order and the place of the right one."""

    prompt: str
    options: tuple[str, ...]
    answer: int


@dataclass(frozen=True, kw_only=True)
class TrainingScene:
    """A picture, the masks of its attributes (H, W) by plane name, and questions about it."""

    image: Image.Image
    masks: dict[str, Mask]
    questions: tuple[TrainingQuestion, ...]


def question(rng: random.Random, prompt: str, right: str, others: tuple[str, ...], most: int = 4) -> TrainingQuestion:
    """Mix the right option with others (never equal to it) and shuffle."""
    pool = [option for option in others if option != right]
    options = [right, *rng.sample(pool, min(most - 1, len(pool)))]
    rng.shuffle(options)
    return TrainingQuestion(prompt=prompt, options=tuple(options), answer=options.index(right))


def corner(x: float, y: float, w: int, h: int) -> str | None:
    """The quarter a point lies in, or None near a middle line."""
    if abs(x / w - 0.5) < 0.08 or abs(y / h - 0.5) < 0.08:
        return None
    return CORNERS[2 * (y > h / 2) + (x > w / 2)]


def _centre(mask: Mask) -> tuple[float, float] | None:
    ys, xs = np.nonzero(mask > 60)
    return (float(xs.mean()), float(ys.mean())) if len(xs) else None


def _join(masks: dict[str, Mask], name: str, mask: Mask) -> None:
    masks[name] = np.maximum(masks[name], mask) if name in masks else mask


def text_scene(rng: random.Random, w: int, h: int) -> TrainingScene:
    """None, one or two texts; each level or tilted, sharp or soft, in every combination."""
    image = canvas.background(rng, w, h)
    if rng.random() < 0.6:
        canvas.marks(rng, image, rng.randint(1, 4))
    count = rng.choice((0, 0, 1, 1, 1, 1, 2))
    soft_at = rng.randint(0, count)  # texts before this index share light and blur, later ones are sharp
    masks: dict[str, Mask] = {}
    notes: list[tuple[str, str, str, Mask]] = []
    for k in range(count + 1):
        if k == soft_at and (soft_at or rng.random() < 0.6):
            image = overlay.share_light(rng, image)
        if k == count:
            break
        tilted = rng.random() < 0.5
        item = overlay.write_in_scene(rng, image) if tilted else overlay.lay_over(rng, image)
        ink = np.asarray(item.mask)
        tilt, edge = "tilted" if tilted else "level", "soft" if k < soft_at else "sharp"
        for name in ("glyph", tilt, edge):
            _join(masks, name, ink)
        notes.append((tilt, edge, item.text, ink))
    if rng.random() < 0.4 and not notes:
        canvas.marks(rng, image, rng.randint(1, 4))
    return TrainingScene(image=image, masks=masks, questions=_text_questions(rng, notes, w, h))


def _text_questions(
    rng: random.Random, notes: list[tuple[str, str, str, Mask]], w: int, h: int
) -> tuple[TrainingQuestion, ...]:
    questions = [question(rng, "Is there text in this image?", "yes" if notes else "no", ("yes", "no"))]
    if len(notes) != 1:
        return tuple(questions)
    tilt, edge, text, ink = notes[0]
    questions.append(question(rng, "Is the text level or tilted?", tilt, ("level", "tilted")))
    questions.append(question(rng, "Are the letters sharp or soft?", edge, ("sharp", "soft")))
    if len(text) <= 8:
        questions.append(question(rng, "What does the text say?", text, WORDS, 3))
    centre = _centre(ink)
    where = corner(*centre, w, h) if centre else None
    if where:
        questions.append(question(rng, "Where is the text?", where, CORNERS))
    return tuple(questions)


def _outline(kind: str, x: float, y: float, r: float) -> list[Point]:
    if kind == "square":
        return [(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)]
    if kind == "triangle":
        return [(x, y - r), (x + r, y + r * 0.8), (x - r, y + r * 0.8)]
    if kind == "cross":
        q = r * 0.35
        return [
            (x - q, y - r), (x + q, y - r), (x + q, y - q), (x + r, y - q), (x + r, y + q), (x + q, y + q),
            (x + q, y + r), (x - q, y + r), (x - q, y + q), (x - r, y + q), (x - r, y - q), (x - q, y - q),
        ]  # fmt: skip
    steps = [(math.pi * k / 5, r * (0.45 if k % 2 else 1.1)) for k in range(10)]
    return [(x + q * math.sin(a), y - q * math.cos(a)) for a, q in steps]


def _draw_shape(kind: str, size: tuple[int, int], x: float, y: float, r: float) -> Image.Image:
    mask = Image.new("L", size)
    pen = ImageDraw.Draw(mask)
    if kind == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
    elif kind == "ring":
        pen.ellipse((x - r, y - r, x + r, y + r), outline=255, width=max(2, int(r * 0.3)))
    else:
        pen.polygon(_outline(kind, x, y, r), fill=255)
    return mask


def shape_scene(rng: random.Random, w: int, h: int) -> TrainingScene:
    """One to three shapes of different kinds and colours in different quarters."""
    image = canvas.background(rng, w, h) if rng.random() < 0.5 else Image.new("RGB", (w, h), canvas.colour(rng))
    image = image.filter(ImageFilter.GaussianBlur(w / 80))
    count = rng.randint(1, 3)
    kinds, names = rng.sample(SHAPES, count), rng.sample(tuple(COLOURS), count)
    places = rng.sample(range(4), count)
    masks: dict[str, Mask] = {}
    questions = []
    for kind, name, place in zip(kinds, names, places, strict=True):
        r = rng.uniform(0.09, 0.2) * min(w, h)
        x, y = w * (0.26 + 0.48 * (place % 2)), h * (0.26 + 0.48 * (place // 2))
        mask = _draw_shape(kind, (w, h), x + rng.uniform(-0.05, 0.05) * w, y + rng.uniform(-0.05, 0.05) * h, r)
        image.paste(COLOURS[name], (0, 0), mask)
        _join(masks, kind, np.asarray(mask))
        questions.append(question(rng, f"Where is the {kind}?", CORNERS[place], CORNERS))
        questions.append(question(rng, f"What colour is the {kind}?", name, tuple(COLOURS)))
        questions.append(question(rng, f"Which shape is at the {CORNERS[place]}?", kind, SHAPES))
    if rng.random() < 0.5:
        image = canvas.grain(rng, image, rng.uniform(2, 10))
    return TrainingScene(image=image, masks=masks, questions=tuple(questions))


def letter_scene(rng: random.Random, w: int, h: int) -> TrainingScene:
    """One large letter, level or turned."""
    image = canvas.background(rng, w, h).filter(ImageFilter.GaussianBlur(w / 64))
    letter = rng.choice(LETTERS)
    face = any_font(rng, int(rng.uniform(0.35, 0.75) * min(w, h)))
    page = Image.new("L", (w, h))
    x, y = rng.uniform(0.4, 0.6) * w, rng.uniform(0.4, 0.6) * h
    ImageDraw.Draw(page).text((x, y), letter, font=face, fill=255, anchor="mm")
    tilted = rng.random() < 0.4
    if tilted:
        page = page.rotate(rng.choice((-1, 1)) * rng.uniform(8, 25), Image.Resampling.BICUBIC)
    image.paste(lettering.ink(rng, lettering.mean_colour(image, (0, 0, w, h)), 80), (0, 0), page)
    ink = np.asarray(page)
    masks = {"glyph": ink, "tilted" if tilted else "level": ink, "sharp": ink}
    questions = (
        question(rng, "Which letter is this?", letter, tuple(LETTERS)),
        question(rng, "Is there text in this image?", "yes", ("yes", "no")),
    )
    return TrainingScene(image=image, masks=masks, questions=questions)


def _elbow(rng: random.Random, material: str, thick: float) -> list[Part]:
    bend, width = math.radians(rng.uniform(60, 120)), rng.uniform(0.1, 0.2)
    tip = (-0.35 + rng.uniform(0.3, 0.5) * math.cos(bend), rng.uniform(0.3, 0.5) * math.sin(bend))
    return [Part(points=((0.45, 0.0), (-0.35, 0.0), tip), material=material, thick=thick, width=width)]


def outline_parts(rng: random.Random, kind: str) -> tuple[list[Part], str]:
    """A plain outline of random proportions in a random material, about one unit long."""
    material, thick = rng.choice(tuple(MATERIALS)), rng.uniform(0.4, 1.0)
    if kind == "wedge":
        a, b = rng.uniform(0.06, 0.14), rng.uniform(-0.05, 0.05)
        return [Part(points=((-0.45, -a), (0.5, b), (-0.45, a)), material=material, thick=thick)], material
    if kind == "elbow":
        return _elbow(rng, material, thick), material
    if kind == "crossing":
        t, width = rng.uniform(0.2, 0.8), rng.uniform(0.03, 0.1)
        lines = [
            ((-0.5 * math.cos(t), s * 0.5 * math.sin(t)), (0.5 * math.cos(t), -s * 0.5 * math.sin(t))) for s in (-1, 1)
        ]
        return [Part(points=line, material=material, thick=thick, width=width) for line in lines], material
    if kind == "loops":
        r, gap = rng.uniform(0.1, 0.2), rng.uniform(0.0, 0.15)
        eyes = [ring(s * (r + gap), 0, r, r * rng.uniform(0.6, 1)) for s in (-1, 1)]
        return [Part(points=eye, material=material, thick=thick, width=0.05) for eye in eyes], material
    if kind == "flask":
        r, neck = rng.uniform(0.14, 0.28), rng.uniform(0.04, 0.08)
        return [
            Part(points=oval(-0.5 + r * 1.2, 0, r * 1.2, r), material=material, thick=thick),
            Part(points=rect(-0.3, -neck, 0.4, neck), material=material, thick=thick * 0.7),
        ], material
    if kind == "bar":
        a = rng.uniform(0.03, 0.14)
        return [Part(points=rect(-0.5, -a, 0.5, a), material=material, thick=thick)], material
    r = rng.uniform(0.15, 0.35)
    return [Part(points=oval(0, 0, r, r * rng.uniform(0.7, 1)), material=material, thick=thick)], material


STUFF = {"organic": "organic", "plastic": "plastic", "light": "light metal", "steel": "steel"}


def through_scene(rng: random.Random, w: int, h: int) -> TrainingScene:
    """Belongings and plain outlines seen by absorption, with or without a bag round them."""
    depths = Depths(w, h)
    if rng.random() < 0.5:
        baggage.lay_bag(rng, depths)
    else:
        cloth = fog(rng, w, h) * rng.uniform(0.0, 0.5)
        depths.depth += cloth[..., None] * np.array(MATERIALS["organic"], np.float32)
    masks: dict[str, Mask] = {}
    centres: dict[str, tuple[float, float]] = {}
    made: dict[str, str] = {}
    for _ in range(rng.randint(1, 5)):
        if rng.random() < 0.5:
            kind = rng.choice(OUTLINES)
            parts, stuff = outline_parts(rng, kind)
            made[kind] = stuff
            length = rng.uniform(0.3, 0.65)
        else:
            kind = rng.choice(tuple(EVERYDAY))
            parts, length = EVERYDAY[kind](rng), LENGTHS[kind] * rng.uniform(0.8, 1.15)
        again = kind in masks
        pose = baggage.random_pose(rng, w, h, length, 0.32)
        _, mask = depths.add(parts, pose)
        if mask is not None:
            _join(masks, kind, mask)
            centres[kind] = (pose.x, pose.y)
        if again:
            centres.pop(kind, None)
            made.pop(kind, None)
    image = develop(rng, depths, blur=rng.uniform(0.0, 0.6) * w / 160)
    return TrainingScene(image=image, masks=masks, questions=_through_questions(rng, masks, centres, made, w, h))


def _through_questions(
    rng: random.Random,
    masks: dict[str, Mask],
    centres: dict[str, tuple[float, float]],
    made: dict[str, str],
    w: int,
    h: int,
) -> tuple[TrainingQuestion, ...]:
    if not masks:
        return (question(rng, "Is there text in this image?", "no", ("yes", "no")),)
    absent = tuple(name for name in (*EVERYDAY, *OUTLINES) if name not in masks)
    questions = [question(rng, "Which of these can be seen?", kind, absent, 3) for kind in masks]
    for kind, (x, y) in centres.items():
        where = corner(x, y, w, h)
        if where:
            questions.append(question(rng, f"Where is the {kind}?", where, CORNERS))
        if kind in made:
            questions.append(question(rng, f"What is the {kind} made of?", STUFF[made[kind]], tuple(STUFF.values())))
    return tuple(questions)


KINDS: tuple[Callable[[random.Random, int, int], TrainingScene], ...] = (
    text_scene, text_scene, text_scene, text_scene, shape_scene, letter_scene, through_scene, through_scene,
    through_scene, through_scene,
)  # fmt: skip


def draw(seed: int, index: int, width: int, height: int) -> TrainingScene:
    """Picture `index` of a seed; the kinds take turns."""
    rng = dice(seed, "looking", index)
    return KINDS[index % len(KINDS)](rng, width, height)


# Everything a question may be about, for telling kinds of questions apart.
NAMES = frozenset((*SHAPES, *EVERYDAY, *OUTLINES))
