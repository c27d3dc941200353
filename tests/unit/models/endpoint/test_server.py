"""One question to a server that fails in every way: what kind of failure each is, and what it costs."""

import json
import math
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme
from PIL import Image

from scanfleet.models.endpoint.chat import ChatServer, RequestOptions
from scanfleet.models.endpoint.errors import AnswerRefused, EndpointBusy, EndpointChanged, EndpointMisused
from scanfleet.models.endpoint.http import HttpChannel
from scanfleet.models.endpoint.image import ImageEncoding
from scanfleet.models.endpoint.scorer import EndpointScorer, identify
from scanfleet.models.inputs.further_turn import WHY
from scanfleet.models.types import ModelIdentity, Question
from tests.services import chat_server

QUESTION = Question(name="q", prompt="Which colour?", labels=("red", "green", "blue"), flags=frozenset({"red"}))
KEY = "sk-s3cret-k3y-of-an-endpoint"
IDENTITY = ModelIdentity(base_model="endpoint:m", revision="tested-1 fp_1", precision="remote", adapter_sha256=None)
TIMEOUT = 1.0  # seconds; what hangs on purpose takes this long
RED = Image.new("RGB", (64, 64), (200, 20, 5))
MARGIN = math.log((201 + 5) / (21 + 6))  # A and " A" against B and C, as the server has it


def channel_to(url: str, *, ca_file: Path | None = None, connections: int = 4, seconds: float = TIMEOUT) -> HttpChannel:
    return HttpChannel(url=url, key=KEY, timeout_seconds=seconds, connections=connections, ca_file=ca_file)


@pytest.fixture(scope="module")
def one_peer() -> Iterator[chat_server.ChatServer]:
    with chat_server.ChatServer() as peer:
        yield peer


@pytest.fixture(scope="module")
def channel(one_peer: chat_server.ChatServer) -> Iterator[HttpChannel]:
    channel = channel_to(one_peer.url)
    yield channel
    channel.close()


@pytest.fixture
def peer(one_peer: chat_server.ChatServer) -> chat_server.ChatServer:
    one_peer.begin_anew()
    return one_peer


@pytest.fixture
def server(channel: HttpChannel) -> ChatServer:
    return ChatServer(channel=channel, options=RequestOptions(model="m"), key=KEY)


@pytest.fixture
def scorer(server: ChatServer) -> EndpointScorer:
    return EndpointScorer(server=server, question=QUESTION, identity=IDENTITY, encoding=ImageEncoding())


def ask(scorer: EndpointScorer) -> float:
    return scorer.score([scorer.prepare(RED)])[0].margin


def test_a_request_says_what_is_wanted_and_nothing_else(peer: chat_server.ChatServer, scorer: EndpointScorer) -> None:
    reading = scorer.score([scorer.prepare(RED)])[0]
    asked = peer.asked[0]
    assert asked.path == chat_server.PATH
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.text.splitlines() == ["Which colour?", "A) red", "B) green", "C) blue", "Answer with the letter."]
    assert (asked.image_type, asked.image.size, asked.image.getpixel((5, 5))) == ("png", (64, 64), (200, 20, 5))
    others = {name: value for name, value in asked.fields.items() if name != "messages"}
    assert others == {"model": "m", "max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 20}

    assert reading.margin == pytest.approx(MARGIN)
    assert reading.mass == pytest.approx(233 / (238 * 1.25))


def test_an_explanation_is_a_second_turn_of_the_same_question(
    peer: chat_server.ChatServer, scorer: EndpointScorer
) -> None:
    image = scorer.prepare(RED)
    (reading,) = scorer.score([image])
    written = scorer.explain(image, reading, max_tokens=17)
    first, second = peer.asked
    assert second.fields["messages"] == [
        *first.fields["messages"],
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": WHY},
    ]
    others = {name: value for name, value in second.fields.items() if name != "messages"}
    assert others == {"model": "m", "max_tokens": 17, "temperature": 0}
    assert (written.text, written.cut) == ("A", True)


def test_an_explanation_by_another_model_is_refused(peer: chat_server.ChatServer, scorer: EndpointScorer) -> None:
    image = scorer.prepare(RED)
    (reading,) = scorer.score([image])
    peer.faults = iter(["renamed"])
    with pytest.raises(EndpointChanged):
        scorer.explain(image, reading, max_tokens=17)


@pytest.mark.parametrize("fault", ["500", "garbage", "huge", "no_choice", "true_for_number"])
def test_an_explanation_that_is_none_is_an_error_of_the_world(
    peer: chat_server.ChatServer, scorer: EndpointScorer, fault: str
) -> None:
    image = scorer.prepare(RED)
    (reading,) = scorer.score([image])
    peer.faults = iter([fault])
    with pytest.raises(EndpointBusy):
        scorer.explain(image, reading, max_tokens=17)


def test_many_images_many_threads_and_each_gets_its_own_answer(scorer: EndpointScorer) -> None:
    images = [scorer.prepare(Image.new("RGB", (64, 64), (shade, 255 - shade, 9))) for shade in range(0, 256, 8)]
    alone = scorer.score(images)
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda image: scorer.score([image])[0], images))
    assert together == alone
    assert len({reading.margin for reading in alone}) == len(images)


BUSY = [
    *("429", "500", "502", "503", "504", "408", "202", "reset", "truncated", "short", "no_http", "garbage", "deep"),
    *("huge", "long_header", "nan", "infinite", "minus_infinite", "over_zero", "over_one", "text_for_number"),
    *("true_for_number", "twice", "a_list", "null", "no_choice", "byte_256"),
]


@pytest.mark.parametrize("fault", BUSY)
def test_a_failure_of_the_world(peer: chat_server.ChatServer, scorer: EndpointScorer, fault: str) -> None:
    peer.faults = iter([fault])
    with pytest.raises(EndpointBusy) as caught:
        ask(scorer)
    assert "\n" not in str(caught.value)
    assert ask(scorer) == pytest.approx(MARGIN)  # the next one is answered


def test_a_huge_answer_is_not_read_to_its_end(peer: chat_server.ChatServer, scorer: EndpointScorer) -> None:
    peer.faults = iter(["huge"])
    with pytest.raises(EndpointBusy, match="over 1048576 bytes"):
        ask(scorer)


@pytest.mark.parametrize("fault", ["silent", "drip"])
def test_a_request_ends_in_time_however_slowly_the_answer_comes(
    peer: chat_server.ChatServer, scorer: EndpointScorer, fault: str
) -> None:
    peer.faults = iter([fault])
    with pytest.raises(EndpointBusy, match="within 1 s"):
        ask(scorer)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    channel = channel_to(url)
    with pytest.raises(EndpointBusy, match="cannot be reached"):
        channel.post("/chat/completions", b"{}")
    channel.close()


def test_the_server_says_when_to_come_back(peer: chat_server.ChatServer, scorer: EndpointScorer) -> None:
    peer.faults = iter(["429:7", "503:12", "429"])
    for seconds in (7.0, 12.0, None):
        with pytest.raises(EndpointBusy) as caught:
            ask(scorer)
        assert caught.value.retry_after == seconds


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        (f"401:Incorrect key {KEY}", "set endpoint_key"),
        ("402", "account"),
        ("403", "endpoint_key"),
        ("404:no such model", "endpoint_url"),
        ("418", "endpoint_url"),
        ("no_logprobs", "logprobs"),
        ("no_content", "logprobs"),
        ("no_rivals", "top_logprobs"),
        ("one_token", "top_logprobs"),
        ("truncated_list", "truncation"),
    ],
)
def test_what_a_person_must_put_right(
    peer: chat_server.ChatServer, scorer: EndpointScorer, fault: str, advice: str
) -> None:
    peer.faults = iter([fault])
    with pytest.raises(EndpointMisused, match=advice) as caught:
        ask(scorer)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("status", ["301", "302", "307", "308"])
def test_a_redirect_is_not_followed(peer: chat_server.ChatServer, scorer: EndpointScorer, status: str) -> None:
    with chat_server.ChatServer() as elsewhere:
        peer.faults = iter([f"{status}:{elsewhere.url}/chat/completions"])
        with pytest.raises(EndpointMisused, match="endpoint_url"):
            ask(scorer)
        assert elsewhere.asked == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("400", "refused"),
        ("422", "refused"),
        ("413", "too_large"),
        ("400:content_filter", "content_filter"),
        ("filtered", "content_filter"),
        ("refusal", "content_filter"),
        ("other_words", "no_label"),
        ("ended", "no_label"),
    ],
)
def test_what_may_be_the_images_fault(
    peer: chat_server.ChatServer, scorer: EndpointScorer, fault: str, reason: str
) -> None:
    peer.faults = iter([fault])
    with pytest.raises(AnswerRefused) as caught:
        ask(scorer)
    assert caught.value.reason == reason


def test_another_model_under_the_same_address_is_noticed(peer: chat_server.ChatServer, scorer: EndpointScorer) -> None:
    peer.faults = iter(["renamed"])
    with pytest.raises(EndpointChanged, match="tested-2"):
        ask(scorer)


def test_the_limit_of_tokens_goes_by_the_name_that_the_server_wants(
    peer: chat_server.ChatServer, scorer: EndpointScorer
) -> None:
    old = "400:Unsupported parameter: 'max_tokens', use 'max_completion_tokens' instead."
    peer.fault_of = lambda asked: old if "max_tokens" in asked.fields else ""
    assert ask(scorer) == ask(scorer)
    assert ["max_tokens" in asked.fields for asked in peer.asked] == [True, False, False]
    assert peer.asked[-1].fields["max_completion_tokens"] == 1


def test_the_trial_question_finds_out_who_answers(peer: chat_server.ChatServer, server: ChatServer) -> None:
    peer.faults = iter(["", "404"])
    found = identify(server, name="endpoint:m", encoding=ImageEncoding())
    assert found == ModelIdentity(
        base_model="endpoint:m", revision="tested-1 fp_1 png-32px", precision="remote", adapter_sha256=None
    )
    with pytest.raises(EndpointMisused):
        identify(server, name="endpoint:m", encoding=ImageEncoding())


def test_a_server_without_a_name_is_called_unknown(peer: chat_server.ChatServer, server: ChatServer) -> None:
    peer.faults = iter(["nameless"])
    assert identify(server, name="endpoint:m", encoding=ImageEncoding()).revision == "unknown png-32px"


def test_no_more_connections_than_allowed(peer: chat_server.ChatServer) -> None:
    at_once, most, both = 0, 0, threading.Barrier(2)
    lock = threading.Lock()

    def slowly(asked: chat_server.Asked) -> chat_server.Tokens:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        both.wait(10)  # two come in, never a third
        with lock:
            at_once -= 1
        return chat_server.by_colour(asked)

    peer.answer = slowly
    channel = channel_to(peer.url, connections=2)
    server = ChatServer(channel=channel, options=RequestOptions(model="m"))
    scorer = EndpointScorer(server=server, question=QUESTION, identity=IDENTITY, encoding=ImageEncoding())
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda _: ask(scorer), range(6)))
    channel.close()
    assert most == 2


def test_closing_ends_what_is_under_way_and_takes_nothing_more(peer: chat_server.ChatServer) -> None:
    entered = threading.Event()

    def answer(asked: chat_server.Asked) -> chat_server.Tokens:
        entered.set()
        return chat_server.by_colour(asked)

    peer.begin_anew(answer, faults=["silent"])
    channel = channel_to(peer.url, seconds=60.0)
    server = ChatServer(channel=channel, options=RequestOptions(model="m"))
    scorer = EndpointScorer(server=server, question=QUESTION, identity=IDENTITY, encoding=ImageEncoding())
    with ThreadPoolExecutor(1) as threads:
        under_way = threads.submit(ask, scorer)
        assert entered.wait(30)
        channel.close()
        with pytest.raises(EndpointBusy, match="was closed"):
            under_way.result(30)
    with pytest.raises(EndpointBusy, match="was closed"):
        ask(scorer)


def test_a_certificate_is_checked_by_the_authority_that_is_named(tmp_path: Path) -> None:
    ours, theirs = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(str(tmp_path / "ours.pem"))
    theirs.cert_pem.write_to_path(str(tmp_path / "theirs.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.issue_cert("localhost").configure_cert(context)
    with chat_server.ChatServer() as peer:
        peer.encrypt(context)
        url = peer.url.replace("http://127.0.0.1", "https://localhost")
        for name, error in (("ours.pem", None), ("theirs.pem", EndpointMisused)):
            channel = channel_to(url, ca_file=tmp_path / name)
            server = ChatServer(channel=channel, options=RequestOptions(model="m"))
            if error is None:
                assert identify(server, name="endpoint:m", encoding=ImageEncoding())
            else:
                with pytest.raises(error, match="endpoint_ca_file"):
                    identify(server, name="endpoint:m", encoding=ImageEncoding())
            channel.close()


def test_a_file_without_certificates_is_told(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(json.dumps({}))
    with pytest.raises(EndpointMisused, match=r"ca\.pem"):
        channel_to("https://localhost/v1", ca_file=tmp_path / "ca.pem")
