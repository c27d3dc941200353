"""The images of a run, made from its seed alone, the scans of them, and the right answer to each image."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from scanfleet.checks.check import Check, load_check
from scanfleet.images import decode
from scanfleet.models.fake import FakeScorer, fake_identity
from scanfleet.worker.scoring.decisions import Policy
from scanfleet.worker.scoring.factory import question_of

BUCKET = "archive"
SIDE = 16  # pixels
POISON_PIXEL = (255, 0, 127)  # at the upper left; ordinary images have a red of 0 there
MODEL, TWIN = "fake-1", "fake.1"  # two models: batches of both are found under the queue name "score.fake-1"
SHARES = {"overlay/": 44, "baggage/": 43, "both/": 10, "late/": 3}
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

    @property
    def etag(self) -> str:
        """As a listing gives it."""
        return f'"{hashlib.md5(self.data, usedforsecurity=False).hexdigest()}"'


@dataclass(frozen=True, kw_only=True)
class ScanSpec:
    """A scan that somebody starts: `scanfleet scan PREFIXES --check CHECK --model MODEL`."""

    check: Check
    model: str
    prefixes: tuple[str, ...]


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


def first_scans(*, workers: int) -> list[ScanSpec]:
    """Two checks of one model over overlapping archives, and one of them by the other model, if anybody serves it."""
    scans = [
        ScanSpec(check=load_check("overlay"), model=MODEL, prefixes=("overlay/", "both/")),
        ScanSpec(check=load_check("baggage"), model=MODEL, prefixes=("baggage/", "both/")),
        ScanSpec(check=load_check("overlay"), model=TWIN, prefixes=("both/",)),
    ]
    return scans if workers > 1 else scans[:2]


def late_scans(number: int) -> list[ScanSpec]:
    """Two scans of two further checks, begun between a base backup and its return."""
    check = load_check("overlay")
    names = (f"late-{number}-{part}" for part in "ab")
    checks = [check.model_copy(update={"name": name, "prompt": f"{check.prompt} ({name})"}) for name in names]
    return [ScanSpec(check=check, model=MODEL, prefixes=("late/",)) for check in checks]


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
        data = make_bytes(kind, rng, goods)
        if kind == "good":
            goods.append(data)
        yield Item(key=f"{prefix}{number:06}.png", data=data, kind=kind)


def make_bytes(kind: str, rng: random.Random, goods: list[bytes]) -> bytes:
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


class Reference:
    """The answers of a scan in peace, computed here with the scorer: no fleet, no queue, no ledger."""

    def __init__(self, scan: ScanSpec, *, max_pixels: int) -> None:
        question = question_of(scan.check)
        self._scorer = FakeScorer(question=question, identity=fake_identity(scan.model))
        self._policy = Policy(question=question)
        self._max_pixels = max_pixels

    def answer(self, item: Item) -> Answer:
        if item.kind in DAMAGED:
            stage, reason = DAMAGED[item.kind]
            return Answer(stage=stage, reason=reason)
        image = decode(item.data, max_pixels=self._max_pixels).image
        reading = self._scorer.score([self._scorer.prepare(image)])[0]
        decision = self._policy.decide(reading)
        return Answer(label=decision.label, decision=decision.decision, margin=reading.margin, sha256=item.sha256)
