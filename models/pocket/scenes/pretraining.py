"""Pictures for training the base model before any check exists, with questions about them.

There are three kinds: text (lettering of any sort, whose tilt and softness are independent, so that neither check label
can be read off), shapes and single letters, and absorption pictures of belongings and of plain outlines. No threat is
drawn here, and no question of a check is asked.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from scanfleet.models.pocket.scenes import baggage, canvas, lettering, overlay
from scanfleet.models.pocket.scenes.belongings import EVERYDAY, LENGTHS
from scanfleet.models.pocket.scenes.fonts import LETTERS, WORDS, any_font
from scanfleet.models.pocket.scenes.scene import Mask, dice
from scanfleet.models.pocket.scenes.shapes import OUTLINES, SHAPES, draw_shape, outline_parts
from scanfleet.models.pocket.scenes.xray import MATERIALS, Depths, develop, fog

CORNERS = ("top left", "top right", "bottom left", "bottom right")
COLOURS = {
    "red": (220, 40, 40), "green": (40, 170, 60), "blue": (40, 70, 220), "yellow": (235, 215, 50),
    "white": (250, 250, 250), "black": (10, 10, 10), "purple": (150, 50, 180), "orange": (245, 140, 30),
}  # fmt: skip
TEXT_PLANES = ("glyph", "level", "tilted", "sharp", "soft")
# The attributes that the dense loss predicts for every 32 x 32 pixel cell; one plane each.
PLANES = (*TEXT_PLANES, *SHAPES, *EVERYDAY, *OUTLINES)


@dataclass(frozen=True, kw_only=True)
class TrainingQuestion:
    """One question.

    Attributes:
        prompt: the question.
        options: in menu order.
        answer: index of the right option.
    """

    prompt: str
    options: tuple[str, ...]
    answer: int


@dataclass(frozen=True, kw_only=True)
class TrainingScene:
    """A picture, the masks of its attributes by plane name, [height, width] each, and questions about it."""

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
    """Return the quarter in which a point lies, or None near a middle line."""
    if abs(x / w - 0.5) < 0.08 or abs(y / h - 0.5) < 0.08:
        return None
    return CORNERS[2 * (y > h / 2) + (x > w / 2)]


def _centre(mask: Mask) -> tuple[float, float] | None:
    ys, xs = np.nonzero(mask > 60)
    return (float(xs.mean()), float(ys.mean())) if len(xs) else None


def _join(masks: dict[str, Mask], name: str, mask: Mask) -> None:
    masks[name] = np.maximum(masks[name], mask) if name in masks else mask


def text_scene(rng: random.Random, w: int, h: int) -> TrainingScene:
    """Draw no text, one or two; each level or tilted, sharp or soft, in every combination."""
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


def shape_scene(rng: random.Random, w: int, h: int) -> TrainingScene:
    """Draw one to three shapes of different kinds and colours in different quarters."""
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
        mask = draw_shape(kind, (w, h), x + rng.uniform(-0.05, 0.05) * w, y + rng.uniform(-0.05, 0.05) * h, r)
        image.paste(COLOURS[name], (0, 0), mask)
        _join(masks, kind, np.asarray(mask))
        questions.append(question(rng, f"Where is the {kind}?", CORNERS[place], CORNERS))
        questions.append(question(rng, f"What colour is the {kind}?", name, tuple(COLOURS)))
        questions.append(question(rng, f"Which shape is at the {CORNERS[place]}?", kind, SHAPES))
    if rng.random() < 0.5:
        image = canvas.grain(rng, image, rng.uniform(2, 10))
    return TrainingScene(image=image, masks=masks, questions=tuple(questions))


def letter_scene(rng: random.Random, w: int, h: int) -> TrainingScene:
    """Draw one large letter, level or tilted."""
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


STUFF = {"organic": "organic", "plastic": "plastic", "light": "light metal", "steel": "steel"}


def through_scene(rng: random.Random, w: int, h: int) -> TrainingScene:
    """Draw belongings and plain outlines by absorption, with or without a bag around them."""
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
    """Return picture `index` of a seed; the kinds take turns."""
    rng = dice(seed, "looking", index)
    return KINDS[index % len(KINDS)](rng, width, height)


# Every name that a question may contain, to tell kinds of questions apart.
NAMES = frozenset((*SHAPES, *EVERYDAY, *OUTLINES))
