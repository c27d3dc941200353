"""What is read in a server's answer, and what is refused."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from scanfleet.models.endpoint.chat import retry_delay_seconds
from scanfleet.models.endpoint.errors import LONGEST, AnswerRefused, EndpointBusy, EndpointMisused
from scanfleet.models.endpoint.image import ImageEncoding, fit
from scanfleet.models.endpoint.logprobs import Listing, read_error, read_labels, read_listing
from scanfleet.models.endpoint.scorer import letters
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.types import Question
from tests.services.chat_server import WRONG_ANSWERS, completion
from tests.unit.models.tiny_models import picture

TOKENS = [("B", -0.5), (" A", -1.5), ("A", -2.5), ("The", -4.0), ("D", -6.0)]
MISUSED = {"no_logprobs", "no_content", "no_rivals", "one_token", "truncated_list"}
REFUSED = {"ended": "no_label", "filtered": "content_filter", "refusal": "content_filter"}
READABLE = {
    "other_words",
    "renamed",
    "twice",
    "nameless",
}  # wrong in what they list, which is found out when labels are read


def listing(tokens: list[tuple[str, float]] = TOKENS) -> Listing:
    return read_listing(json.dumps(completion(tokens)).encode())


def raw(tokens: list[dict[str, Any]]) -> Listing:
    """As a server writes them, `bytes` and all."""
    body = completion(TOKENS, logprobs={"content": [tokens[0] | {"top_logprobs": tokens}]})
    return read_listing(json.dumps(body).encode())


def test_a_label_is_the_logsumexp_of_its_spellings() -> None:
    logits, mass = read_labels(listing(), ("A", "B"))
    assert logits == pytest.approx((math.log(math.exp(-1.5) + math.exp(-2.5)), -0.5))
    assert mass == pytest.approx(math.exp(-1.5) + math.exp(-2.5) + math.exp(-0.5))


def test_a_label_that_is_not_listed_has_less_than_the_least_listed_token_and_no_mass() -> None:
    logits, mass = read_labels(listing(), ("B", "C", "D"))
    assert logits[1] == math.nextafter(-6.0, -math.inf)
    assert logits[2] == -6.0  # listed last, and ranked above what is not listed
    assert mass == pytest.approx(math.exp(-0.5) + math.exp(-6.0))


def test_other_words_are_no_label() -> None:
    with pytest.raises(AnswerRefused, match="answers 'B'") as caught:
        read_labels(listing(), ("X", "Y"))
    assert caught.value.reason == "no_label"


@pytest.mark.parametrize(
    ("token", "text"),
    [
        ({"token": "Ġ", "bytes": [32, 65]}, " A"),
        ({"token": "ĠA"}, " A"),
        ({"token": "▁A", "bytes": None}, " A"),
        ({"token": "<0x41>"}, "A"),
        ({"token": "A", "bytes": []}, "A"),
        ({"token": "A\ufffd", "bytes": [65, 0xE2]}, "A\ufffd"),
        ({"token": "a"}, "a"),
    ],
)
def test_the_ways_in_which_servers_write_a_token(token: dict[str, Any], text: str) -> None:
    found = raw([token | {"logprob": -0.5}, {"token": "no", "logprob": -3.0}])
    assert found.tokens == ((text, -0.5), ("no", -3.0))


def test_the_chosen_token_counts_once_listed_among_its_rivals_or_not() -> None:
    chosen = {"token": "A", "logprob": -0.5}
    rivals = [{"token": "B", "logprob": -2.0}, {"token": "C", "logprob": -3.0}]
    for top in (rivals, [chosen, *rivals]):
        body = completion(TOKENS, logprobs={"content": [chosen | {"top_logprobs": top}]})
        assert sorted(read_listing(json.dumps(body).encode()).tokens) == [("A", -0.5), ("B", -2.0), ("C", -3.0)]


def test_two_tokens_that_read_alike_are_added_and_one_listed_twice_is_refused() -> None:
    alike = listing([("A", -1.0), ("A", -2.0), ("B", -3.0)])
    assert read_labels(alike, ("A", "B"))[0][0] == pytest.approx(math.log(math.exp(-1) + math.exp(-2)))
    with pytest.raises(EndpointBusy, match="twice"):
        read_labels(listing([("A", -1.0), ("A", -1.0), ("B", -3.0)]), ("A", "B"))


def test_a_rounded_certainty_is_no_nonsense() -> None:
    assert read_labels(listing([("A", 1e-6), ("B", -20.0)]), ("A", "B"))[1] == pytest.approx(1.0)


@pytest.mark.parametrize("name", sorted(set(WRONG_ANSWERS) - MISUSED - set(REFUSED) - READABLE))
def test_nonsense_is_a_failure_of_the_world(name: str) -> None:
    with pytest.raises(EndpointBusy):
        read_listing(json.dumps(WRONG_ANSWERS[name](TOKENS)).encode())


@pytest.mark.parametrize("name", sorted(MISUSED))
def test_a_server_without_logprobs_is_set_up_wrongly(name: str) -> None:
    with pytest.raises(EndpointMisused, match="server"):
        read_listing(json.dumps(WRONG_ANSWERS[name](TOKENS)).encode())


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_a_refusal_has_a_reason(name: str, reason: str) -> None:
    with pytest.raises(AnswerRefused) as caught:
        read_listing(json.dumps(WRONG_ANSWERS[name](TOKENS)).encode())
    assert caught.value.reason == reason


@pytest.mark.parametrize("body", [b"", b"<html>", b"{", b"\xff\xfe", b"[" * 200_000, b"1" * 10_000, b'"' + b"x" * 1000])
def test_what_is_no_json_is_told_in_one_line(body: bytes) -> None:
    with pytest.raises(EndpointBusy) as caught:
        read_listing(body)
    assert len(str(caught.value)) < 2 * LONGEST
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"error": {"message": "no\\nroom", "code": 413, "type": "big"}}', ("413 big", "no room")),
        ('{"object": "error", "message": "old", "type": "x"}', ("x", "old")),
        ('{"detail": [{"msg": "wrong"}]}', ("", "[{'msg': 'wrong'}]")),
        ('{"error": "plain"}', ("", "plain")),
        ("<h1>Bad\x1b[31m Gateway</h1>", ("", "<h1>Bad [31m Gateway</h1>")),
        ("", ("", "")),
    ],
)
def test_the_words_of_an_error(body: str, words: tuple[str, str]) -> None:
    assert read_error(body.encode()) == words


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("2.5", 2.5),
        ("-3", 0.0),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40.0),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0.0),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_delay_seconds(header, now=60.0) == seconds


def test_letters_are_single_and_end_somewhere() -> None:
    def question(n: int) -> Question:
        return Question(name="q", prompt="?", labels=tuple(map(str, range(n))), flags=frozenset())

    assert letters(question(3)) == ("A", "B", "C")
    assert len(set(letters(question(62)))) == 62
    with pytest.raises(ModelInvalid, match="62 at most"):
        letters(question(63))


@pytest.mark.parametrize(
    ("size", "grid", "sent"),
    [
        ((128, 128), 32, (128, 128)),
        ((900, 700), 32, (480, 384)),
        ((50, 40), 32, (96, 64)),
        ((130, 100), 28, (140, 112)),
        ((130, 100), 1, (130, 100)),
        ((5000, 3), 32, (4992, 32)),
        ((1, 1), 32, (64, 64)),
    ],
)
def test_images_are_sent_within_the_budget_on_the_grid(size: tuple[int, int], grid: int, sent: tuple[int, int]) -> None:
    assert fit(size, max_pixels=448 * 448, min_pixels=64 * 64, grid=grid) == sent


@given(st.integers(28, 3000), st.integers(28, 3000), st.sampled_from([28, 32]))
def test_the_size_is_the_one_that_the_image_processors_of_qwen_vl_would_make(
    width: int, height: int, grid: int
) -> None:
    theirs = smart_resize(height, width, factor=grid, min_pixels=64 * 64, max_pixels=448 * 448)
    assert fit((width, height), max_pixels=448 * 448, min_pixels=64 * 64, grid=grid) == theirs[::-1]


@pytest.mark.parametrize("image_format", ["png", "jpeg"])
def test_an_image_is_encoded_the_same_every_time(image_format: Any) -> None:
    encoding = ImageEncoding(image_format=image_format)
    one, other = (encoding.encode(picture(90, 70, 1), max_pixels=4096, min_pixels=64) for _ in range(2))
    assert one == other
    assert one.data_url.startswith(f"data:image/{image_format};base64,")
    tiny = [encoding.encode(picture(20, 20, 1), max_pixels=4096, min_pixels=least) for least in (None, 4096)]
    assert tiny[0].data_url == tiny[1].data_url  # left open: enough for a server, which enlarges as its model asks
    assert one.data_url != encoding.encode(picture(90, 70, 2), max_pixels=4096, min_pixels=64).data_url
    assert one.data_url not in repr(one)
