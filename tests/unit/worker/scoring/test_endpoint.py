"""An endpoint as the worker's model: its retries, refusals that count against an image, and what is stored."""

import io
import itertools
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scanfleet import redaction
from scanfleet.checks.check import Check
from scanfleet.checks.explanation import Explanation
from scanfleet.config.model_names import require_model
from scanfleet.config.settings import Settings, load_settings
from scanfleet.db.tables import Image as ImageRow
from scanfleet.db.tables import Verdict
from scanfleet.errors import BadSettings, DeviceUnavailable, ImageError
from scanfleet.messages import score_queue
from scanfleet.models.endpoint.errors import EndpointBusy, EndpointMisused
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.types import Question
from scanfleet.worker.errors import DeviceBroken
from scanfleet.worker.scoring.endpoint import EndpointModel, load_endpoint, streams_for
from scanfleet.worker.scoring.model import load_model
from scanfleet.worker.scoring.rate_limit import AWAY_SECONDS, Clock, RateLimit, RateLimitedServer
from tests.rigs.worker_rig import rig
from tests.services.chat_server import Asked, ChatServer, Tokens, by_colour

QUESTION = Question(name="q", prompt="Which colour?", labels=("red", "green", "blue"), flags=frozenset({"red"}))
KEY = "sk-s3cret-k3y-of-an-endpoint"


@dataclass
class Hours:
    """A clock that advances only by sleeping."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if seconds:
            self.slept.append(seconds)

    @property
    def clock(self) -> Clock:
        return Clock(now=lambda: self.now, sleep=self.sleep)


@dataclass
class Script:
    """A server that fails as scripted, then answers."""

    failures: list[Exception]
    calls: int = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return "answer"


def line(hours: Hours, *, per_minute: float | None = None) -> RateLimitedServer:
    pace = RateLimit(per_minute, hours.clock)
    return RateLimitedServer(rate_limit=pace, patience_seconds=60.0, timeout_seconds=10.0, clock=hours.clock)


def busy(retry_after: float | None = None) -> EndpointBusy:
    return EndpointBusy("overloaded", retry_after=retry_after)


def test_a_busy_server_is_tried_again_after_growing_pauses() -> None:
    hours = Hours()
    asked = line(hours)
    assert asked.ask(Script([busy(), busy(), busy()]), deadline=asked.deadline()) == "answer"
    assert [0.5 * most <= slept <= most for slept, most in zip(hours.slept, (1, 2, 4), strict=True)] == [True] * 3


def test_nothing_lasts_longer_than_the_patience_and_then_the_server_is_left_alone() -> None:
    hours = Hours()
    asked = line(hours)
    down = Script([busy() for _ in range(100)])
    start = hours.now
    with pytest.raises(DeviceUnavailable, match="overloaded"):
        asked.ask(down, deadline=asked.deadline())
    assert hours.now - start <= 50.0  # so that even the last request, of 10 s, ends within the 60
    assert down.calls >= 5
    with pytest.raises(DeviceUnavailable, match="overloaded"):
        asked.ask(unasked := Script([]), deadline=asked.deadline())
    assert unasked.calls == 0
    hours.now += AWAY_SECONDS
    assert asked.ask(Script([]), deadline=asked.deadline()) == "answer"


def test_the_server_decides_how_long_it_is_left_alone_within_reason() -> None:
    hours = Hours()
    asked = line(hours)
    assert asked.ask(Script([busy(20.0)]), deadline=asked.deadline()) == "answer"
    assert sum(hours.slept) >= 20.0
    with pytest.raises(DeviceUnavailable):
        asked.ask(Script([busy(1e9)]), deadline=asked.deadline())
    hours.now += 60.0
    assert asked.ask(Script([]), deadline=asked.deadline()) == "answer"


def test_a_pause_that_could_outlast_the_patience_is_not_begun() -> None:
    hours = Hours()
    asked = line(hours)
    with pytest.raises(DeviceUnavailable, match="overloaded"):  # 52 s and a request of 10 s are over 60
        asked.ask(Script([busy(52.0)]), deadline=asked.deadline())
    assert hours.slept == []


def test_a_pause_that_the_server_asks_for_holds_up_the_other_streams_too() -> None:
    hours, turns = Hours(), []

    def sleep(seconds: float) -> None:
        if seconds:  # one stream sleeps; may another one send?
            turns.append(pace.wait(until=hours.now + 19.0))
        hours.sleep(seconds)

    clock = Clock(now=lambda: hours.now, sleep=sleep)
    pace = RateLimit(None, clock)
    asked = RateLimitedServer(rate_limit=pace, patience_seconds=60.0, timeout_seconds=10.0, clock=clock)
    assert asked.ask(Script([busy(20.0)]), deadline=asked.deadline()) == "answer"
    assert turns == [False]
    assert pace.wait(until=hours.now)


def test_what_a_person_must_change_is_not_tried_again_and_again() -> None:
    hours = Hours()
    asked = line(hours)
    with pytest.raises(EndpointMisused):
        asked.ask(Script([EndpointMisused("wrong key")]), deadline=asked.deadline())
    with pytest.raises(DeviceUnavailable, match="wrong key"):
        asked.ask(unasked := Script([]), deadline=asked.deadline())
    assert (unasked.calls, hours.slept) == (0, [])


def test_requests_are_spaced_evenly_and_none_waits_beyond_its_deadline() -> None:
    hours = Hours()
    asked = line(hours, per_minute=6)
    for _ in range(4):
        asked.ask(Script([]), deadline=asked.deadline())
    assert hours.slept == pytest.approx([10.0] * 3)
    with pytest.raises(DeviceUnavailable, match="endpoint_requests_per_minute"):
        asked.ask(late := Script([]), deadline=hours.now + 15.0)  # its turn comes after 10 s, the request may take 10
    assert late.calls == 0


@pytest.fixture
def peer() -> Iterator[ChatServer]:
    with ChatServer() as peer:
        yield peer


def settings_for(folder: Path, peer: ChatServer, **changes: Any) -> Settings:
    given = {"model": "endpoint:m", "endpoint_url": peer.url, "endpoint_key": KEY, "endpoint_timeout_seconds": 10.0}
    return load_settings(data_dir=folder, **(given | changes))


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_hidden", set())


@pytest.fixture
def model(tmp_path: Path, peer: ChatServer, forgotten: None) -> Iterator[EndpointModel]:
    """Its retries take no time."""
    loaded = load_endpoint(settings_for(tmp_path, peer), clock=Hours().clock)
    peer.asked.clear()
    yield loaded
    loaded.close()


def colour(red: int, green: int, blue: int) -> Image.Image:
    return Image.new("RGB", (64, 64), (red, green, blue))


def score(model: EndpointModel, image: Image.Image) -> float:
    scorer = model.scorer(QUESTION, None)
    return scorer.score([scorer.prepare(image)])[0].margin


RED = colour(200, 20, 5)
MARGIN = math.log((201 + 5) / (21 + 6))


def test_the_worker_loads_an_endpoint_by_its_name(tmp_path: Path, peer: ChatServer, forgotten: None) -> None:
    require_model("endpoint:m", elsewhere=False)
    assert score_queue("endpoint:Qwen/Qwen3-VL-4B").startswith("score.endpoint-qwen-qwen3-vl-4b.")
    model = load_model(settings_for(tmp_path, peer, endpoint_concurrency=5))
    assert isinstance(model, EndpointModel)
    assert (model.streams, model.one_by_one, model.device) == (5, True, peer.url)
    assert (model.identity.base_model, model.identity.precision) == ("endpoint:m", "remote")
    assert score(model, RED) == pytest.approx(MARGIN)
    with pytest.raises(ModelInvalid, match="endpoint:ADAPTER"):
        model.scorer(QUESTION, tmp_path)
    model.close()


@pytest.mark.parametrize("name", ["endpoint:", "endpoint: x", "endpoint:a\nb", "endpoint:/x", "Endpoint:x"])
def test_a_name_that_no_server_has_is_refused(name: str) -> None:
    with pytest.raises(BadSettings, match="endpoint:"):
        require_model(name, elsewhere=False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"precision": "bf16"}, "precision and model_revision"),
        ({"endpoint_patience_seconds": 5.0}, "at least 10"),
        ({"endpoint_patience_seconds": 300.0}, "less than 120"),
        ({"endpoint_requests_per_minute": 1.0}, "at least 70"),
        ({"model": "endpoint:"}, "endpoint:NAME"),
    ],
)
def test_settings_that_do_not_go_together(
    tmp_path: Path, peer: ChatServer, forgotten: None, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadSettings, match=words):
        load_endpoint(settings_for(tmp_path, peer, **changes))
    assert peer.asked == []


def test_an_endpoint_needs_an_address(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="SCANFLEET_ENDPOINT_URL"):
        load_endpoint(load_settings(data_dir=tmp_path, model="endpoint:m"))


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://h/v1", "h/v1", "https://", f"https://u:{KEY}@h/v1", f"https://h/v1?key={KEY}", "https://h:x/v1"),
        "https://h/v1/chat/completions",
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_being_quoted(tmp_path: Path, url: str) -> None:
    with pytest.raises(BadSettings, match="endpoint_url") as caught:
        load_settings(data_dir=tmp_path, endpoint_url=url)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", ["", "two words", f"{KEY}\r\nX-Evil: 1", "schlüssel-geheim"])
def test_a_key_that_cannot_stand_in_a_header_is_refused_without_being_quoted(tmp_path: Path, key: str) -> None:
    with pytest.raises(BadSettings, match="endpoint_key") as caught:
        load_settings(data_dir=tmp_path, endpoint_key=key)
    assert "geheim" not in str(caught.value)
    assert KEY not in str(caught.value)


def test_the_key_shows_nowhere(tmp_path: Path, peer: ChatServer, forgotten: None) -> None:
    peer.faults = iter([f"401:Incorrect API key provided: {KEY}"])
    settings = settings_for(tmp_path, peer)
    with pytest.raises(BadSettings, match="set endpoint_key") as caught:
        load_endpoint(settings)
    assert KEY not in f"{caught.value}{settings!r}{settings.model_dump()}"
    assert redaction.redact(f"Bearer {KEY}") == "Bearer ***"


@pytest.mark.parametrize("fault", ["400:no images here", "404", "no_logprobs", "302:http://elsewhere/"])
def test_what_can_never_work_ends_the_worker_at_its_start(
    tmp_path: Path, peer: ChatServer, forgotten: None, fault: str
) -> None:
    peer.faults = iter([fault])
    with pytest.raises(BadSettings, match="endpoint: the server"):
        load_endpoint(settings_for(tmp_path, peer))


@pytest.mark.parametrize("fault", ["503", "429:3", "reset", "garbage"])
def test_what_may_heal_is_waited_for_at_the_start(
    tmp_path: Path, peer: ChatServer, forgotten: None, fault: str
) -> None:
    peer.faults = iter([fault])
    with pytest.raises(DeviceUnavailable, match="endpoint: "):
        load_endpoint(settings_for(tmp_path, peer))


@pytest.mark.parametrize(
    ("per_minute", "streams"), [(None, 8), (1000.0, 8), (6.0, 2), (2.0, 1)], ids=["free", "fast", "slow", "slowest"]
)
def test_no_more_streams_than_get_their_turn(tmp_path: Path, per_minute: float | None, streams: int) -> None:
    settings = load_settings(data_dir=tmp_path, endpoint_timeout_seconds=10.0, endpoint_requests_per_minute=per_minute)
    assert streams_for(settings) == streams


def test_transient_errors_pass(peer: ChatServer, model: EndpointModel) -> None:
    peer.faults = iter(["503", "reset", "garbage", "429:30", ""])
    assert score(model, RED) == pytest.approx(MARGIN)
    assert len(peer.asked) == 5


@pytest.mark.parametrize("fault", ["503", "401", "no_logprobs"])
def test_a_server_that_stays_away_is_no_verdict_and_no_failed_image(
    peer: ChatServer, model: EndpointModel, fault: str
) -> None:
    peer.faults = itertools.repeat(fault)
    with pytest.raises(DeviceUnavailable, match="endpoint: "):
        score(model, RED)


def is_red(asked: Asked) -> bool:
    return asked.image.getpixel((0, 0)) == (200, 20, 5)


@pytest.mark.parametrize(
    ("fault", "reason"), [("400", "refused"), ("filtered", "content_filter"), ("413", "too_large")]
)
def test_an_image_that_the_server_refuses_while_it_takes_others_has_failed(
    peer: ChatServer, model: EndpointModel, fault: str, reason: str
) -> None:
    peer.fault_of = lambda asked: fault if is_red(asked) else ""
    with pytest.raises(ImageError) as caught:
        score(model, RED)
    assert (caught.value.stage, caught.value.reason) == ("score", reason)
    assert [is_red(asked) for asked in peer.asked] == [True, False, True]


@pytest.mark.parametrize("fault", ["400", "other_words", "filtered"])
def test_a_server_that_refuses_everything_has_failed_itself(peer: ChatServer, model: EndpointModel, fault: str) -> None:
    peer.faults = itertools.repeat(fault)
    with pytest.raises(DeviceUnavailable, match=r"check q: .* plain grey image"):
        score(model, RED)


def test_an_image_that_is_refused_once_is_not_refused(peer: ChatServer, model: EndpointModel) -> None:
    peer.faults = iter(["400", "", ""])
    assert score(model, RED) == pytest.approx(MARGIN)


def test_another_model_ends_the_process_so_that_the_next_one_asks_who_it_is(
    peer: ChatServer, model: EndpointModel
) -> None:
    peer.faults = iter(["renamed"])
    with pytest.raises(DeviceBroken, match="tested-2"):
        score(model, RED)


def uri(red: int, green: int, blue: int) -> str:
    return f"mem://a/{red}-{green}-{blue}.png"


def png_of(red: int, green: int, blue: int) -> bytes:
    buffer = io.BytesIO()
    colour(red, green, blue).save(buffer, "PNG")
    return buffer.getvalue()


def test_every_image_of_a_scan_gets_its_verdict_or_its_own_failure(
    tmp_path: Path, peer: ChatServer, model: EndpointModel
) -> None:
    shades = [(shade, 250 - shade, 7) for shade in range(0, 240, 8)]
    faults = itertools.cycle(["", "503", "", "reset", "", "garbage", "", "over_zero"])
    lock = threading.Lock()

    def fault_of(asked: Asked) -> str:
        red, *_ = asked.image.getpixel((0, 0))  # type: ignore[misc]
        if red in (40, 80):
            return "400:content_filter" if red == 40 else "other_words"
        with lock:
            return next(faults)

    peer.fault_of = fault_of
    with rig(tmp_path, model=model) as worker:
        scan = worker.scan({uri(*shade): png_of(*shade) for shade in shades})
        for _ in range(3):
            worker.drain()
            worker.forget_backoff()
        margins = worker.margins(scan)
        failures = worker.failures()
    assert failures == {uri(40, 210, 7): ("score", "content_filter"), uri(80, 170, 7): ("score", "no_label")}
    right = {
        uri(red, green, blue): math.log((red + 6) / (green + blue + 2))
        for red, green, blue in shades
        if red not in (40, 80)
    }
    assert margins == pytest.approx(right)


def test_only_flagged_images_cost_a_second_request_and_its_refusal_fails_none(
    tmp_path: Path, peer: ChatServer, model: EndpointModel
) -> None:
    shades = [(red, 100, 7) for red in (220, 210, 30)]
    check = Check(
        name="q", prompt="Which?", labels=("red", "green", "blue"), flags=("red",), explain=True, explain_tokens=9
    )
    peer.fault_of = lambda asked: (
        "400:no" if len(asked.fields["messages"]) > 1 and asked.image.getpixel((0, 0)) == shades[0] else ""
    )
    with rig(tmp_path, model=model) as worker:
        worker.scan({uri(*shade): png_of(*shade) for shade in shades}, check=check)
        worker.drain()
        uris = {row.id: row.uri for row in worker.rows(ImageRow)}
        found = {uris[row.image_id]: row.explanation for row in worker.rows(Verdict)}
        assert worker.failures() == {}
    told = [asked.fields["max_tokens"] for asked in peer.asked if len(asked.fields["messages"]) > 1]
    assert told == [9, 9]
    assert found[uri(*shades[2])] is None
    assert found[uri(*shades[1])] == Explanation(text="A…").record()
    assert found[uri(*shades[0])]["text"] is None
    assert "the server refuses the request (status 400: no)" in found[uri(*shades[0])]["problem"]


def test_a_worker_ends_though_the_server_is_silent(tmp_path: Path, peer: ChatServer, model: EndpointModel) -> None:
    entered = threading.Event()

    def answer(asked: Asked) -> Tokens:
        entered.set()
        return by_colour(asked)

    peer.begin_anew(answer, faults=itertools.repeat("silent"))
    with rig(tmp_path, model=model, drain_seconds=5.0) as worker:
        worker.scan({uri(1, 2, 3): png_of(1, 2, 3)})
        run = threading.Thread(target=worker.pipeline.run, args=(None,))
        run.start()
        assert entered.wait(30)
        worker.stop.request("a test")
        run.join(30)
        assert not run.is_alive()
        device = worker.scoring.device
    assert device.forward is not None  # the request is still under way, but no thread waits for it
    assert not peer.released.is_set()
    with rig(tmp_path) as after:
        assert set(after.states().values()) == {"pending"}
