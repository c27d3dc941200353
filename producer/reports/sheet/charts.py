"""Charts as rectangles and lines, which the page writes as SVG and the browser colours, light or dark. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scanfleet.producer.reports.sheet.selection import BINS
from scanfleet.stats.proportions import Proportion
from scanfleet.stats.stage_times import THREAD_STAGES, StageTimes

WIDTH, HEIGHT = 400.0, 140.0  # of a plot, in SVG units: about one pixel on a phone
DECISIONS = ("clear", "review", "flag")  # from the bottom up


@dataclass(frozen=True, kw_only=True)
class Bar:
    x: float
    y: float
    width: float
    height: float
    kind: str  # decision, or stage
    title: str


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """ticks: (x, text). most: images of the highest column. words: what it shows, for those who do not see it."""

    bars: list[Bar]
    ticks: list[tuple[float, str]]
    most: int
    unit: str
    words: str


def histogram(counts: Mapping[tuple[int, str], int], *, low: float, high: float, unit: str) -> Histogram | None:
    """Stack the decisions of each column. counts: (bin, decision) -> images."""
    if not counts:
        return None
    columns = [sum(n for (each, _), n in counts.items() if each == place) for place in range(BINS)]
    most, wide, step = max(columns), WIDTH / BINS, (high - low) / BINS
    bars: list[Bar] = []
    for place in range(BINS):
        top = HEIGHT
        for decision in DECISIONS:
            n = counts.get((place, decision), 0)
            if n:
                tall = max(HEIGHT * n / most, 1.0)  # one image is seen beside a million
                top -= tall
                span = f"{low + place * step:g} to {low + (place + 1) * step:g}"
                title = f"{decision}, {unit} {span}: {n}"
                bars.append(Bar(x=place * wide + 1, y=top, width=wide - 2, height=tall, kind=decision, title=title))
    ticks = [(share * WIDTH, f"{low + share * (high - low):g}") for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    words = f"{sum(columns)} images by {unit}; most, {most}, from {low + columns.index(most) * step:g}"
    return Histogram(bars=bars, ticks=ticks, most=most, unit=unit, words=words)


STAGES = {
    "fetch": "fetching files",
    "decode": "decoding",
    "prepare": "preparing pixels",
    "device": "the model",
    "boxes": "finding boxes",
    "explaining": "explaining flags",
    "pointing": "finding crops",
}
ROW = 26.0  # height of one stage
NAMED, TOLD = 120.0, 60.0  # widths left and right of its bar


@dataclass(frozen=True, kw_only=True)
class Stage:
    bar: Bar
    name: str
    told: str


def stages(times: StageTimes) -> list[Stage]:
    """One bar for each stage that took time. They are seconds of threads and streams, several of which run at once."""
    taken = {stage: times[stage] for stage in STAGES if times[stage] > 0}
    most = max(taken.values(), default=1.0)
    room = WIDTH - NAMED - TOLD
    return [
        Stage(
            bar=Bar(
                x=NAMED,
                y=place * ROW + 5,
                width=max(room * seconds / most, 1.0),
                height=ROW - 10,
                kind="thread" if stage in THREAD_STAGES else "device",
                title=f"{STAGES[stage]}: {seconds:.1f} s",
            ),
            name=STAGES[stage],
            told=f"{seconds:,.1f} s",
        )
        for place, (stage, seconds) in enumerate(taken.items())
    ]


@dataclass(frozen=True, kw_only=True)
class Share:
    """A part of the bar of all decisions, as x and width of WIDTH."""

    kind: str
    n: int
    x: float
    width: float


def share_bar(counts: Mapping[str, int]) -> list[Share]:
    """Divide one bar among kinds by their counts."""
    total, x = sum(counts.values()), 0.0
    found: list[Share] = []
    for kind, n in counts.items():
        if n:
            found.append(Share(kind=kind, n=n, x=x, width=WIDTH * n / total))
            x += found[-1].width
    return found


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A rate with its 95 % interval. text: None where no image counts; low, high, at: of 100, for the line."""

    question: str
    name: str
    share: Proportion

    @property
    def at(self) -> float:
        return 100 * (self.share.value or 0.0)

    @property
    def low(self) -> float:
        return 100 * self.share.interval[0]

    @property
    def high(self) -> float:
        return 100 * self.share.interval[1]
