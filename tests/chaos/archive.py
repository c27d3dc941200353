"""The images of a run, made from its seed alone, and the answer of a run without faults for each of them."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from models.fake import FakeScorer
from scanfleet.checks.check import load_check
from scanfleet.images import decode
from worker.scoring.decisions import Policy
from worker.scoring.factory import question_of

BUCKET = "archive"
SIDE = 16  # pixels
POISON_PIXEL = (255, 0, 127)  # at the upper left; ordinary images have a red of 0 there
# Two checks over overlapping archives: a verdict by the wrong scorer is detected.
PREFIXES = {"overlay": ("overlay/", "both/"), "baggage": ("baggage/", "both/")}
SHARES = {"overlay/": 45, "baggage/": 45, "both/": 10}
DAMAGED = {  # kind -> (stage, reason) of its failure
    "empty": ("decode", "empty"),
    "text": ("decode", "not_an_image"),
    "cut": ("decode", "truncated"),
    "poison": ("process", "kills_the_worker"),
}
ODDS = {"good": 955, "twin": 30, "empty": 5, "text": 5, "cut": 5}


@dataclass(frozen=True, kw_only=True)
class Item:
    """One object of the bucket. kind: good, twin (the bytes of an earlier one), or a word of DAMAGED."""

    key: str
    data: bytes
    kind: str

    @property
    def uri(self) -> str:
        return f"s3://{BUCKET}/{self.key}"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The expected row of the ledger for one image of one scan."""

    label: str | None = None
    decision: str | None = None
    margin: float | None = None
    sha256: str | None = None  # of the bytes that were scored
    stage: str | None = None
    reason: str | None = None

    @property
    def is_failure(self) -> bool:
        return self.stage is not None

    @property
    def is_quarantine(self) -> bool:
        return (self.stage, self.reason) == DAMAGED["poison"]


def make_archive(*, images: int, seed: int, poison: int) -> Iterator[Item]:
    """`images` objects, `poison` of them lethal. Any process makes the same ones."""
    rng = random.Random(f"archive {seed}")
    lethal = set(rng.sample(range(images), poison))
    goods: list[bytes] = []
    for number in range(images):
        prefix = rng.choices(list(SHARES), list(SHARES.values()))[0]
        kind = rng.choices(list(ODDS), list(ODDS.values()))[0]
        if number in lethal:
            kind = "poison"
        elif not goods:
            kind = "good"
        data = _make(kind, rng, goods)
        if kind == "good":
            goods.append(data)
        yield Item(key=f"{prefix}{number:06}.png", data=data, kind=kind)


def _make(kind: str, rng: random.Random, goods: list[bytes]) -> bytes:
    if kind == "empty":
        return b""
    if kind == "text":
        return b"no image " + rng.randbytes(40).hex().encode()
    if kind == "twin":
        return rng.choice(goods)
    pixels = bytearray(rng.randbytes(SIDE * SIDE * 3))
    pixels[0:3] = bytes(POISON_PIXEL) if kind == "poison" else bytes([0, *pixels[1:3]])
    buffer = io.BytesIO()
    Image.frombytes("RGB", (SIDE, SIDE), bytes(pixels)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()[:200] if kind == "cut" else buffer.getvalue()


def reference(items: list[Item], *, max_pixels: int) -> dict[tuple[str, str], Answer]:
    """Return (check, uri) -> the answer, computed here with the scorer: no fleet, no queue, no ledger."""
    answers = {}
    for check, prefixes in PREFIXES.items():
        question = question_of(load_check(check))
        scorer, policy = FakeScorer(question=question), Policy(question=question)
        for item in items:
            if not item.key.startswith(prefixes):
                continue
            if item.kind in DAMAGED:
                stage, reason = DAMAGED[item.kind]
                answers[check, item.uri] = Answer(stage=stage, reason=reason)
                continue
            reading = scorer.score([scorer.prepare(decode(item.data, max_pixels=max_pixels).image)])[0]
            decision = policy.decide(reading)
            answers[check, item.uri] = Answer(
                label=decision.label, decision=decision.decision, margin=reading.margin, sha256=item.sha256
            )
    return answers
