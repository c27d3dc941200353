"""The patch of kombu's acknowledgement, and a check that kombu's source is still the one it was written for."""

import logging
from collections.abc import Iterator

import pytest
from kombu.asynchronous import Hub, get_event_loop, set_event_loop
from kombu.message import Message

from scanfleet.worker.consumer import ack_patch

LOG = logging.getLogger("test")


class DeadChannel:
    """Acknowledging on it fails as on a broken connection."""

    no_ack_consumers: set[str] = set()

    def basic_ack(self, *_: object, **__: object) -> None:
        raise ConnectionResetError("the connection broke")


@pytest.fixture
def message() -> Message:
    return Message(channel=DeadChannel(), delivery_tag="1")


@pytest.fixture
def loop() -> Iterator[Hub]:
    before = get_event_loop()
    hub = Hub()
    set_event_loop(hub)
    yield hub
    set_event_loop(before)
    hub.close()


@pytest.fixture
def guard() -> Iterator[None]:
    before = Message.ack_log_error
    ack_patch.install()
    yield
    Message.ack_log_error = before


def test_kombu_is_the_one_we_read() -> None:
    """When this fails: read the new `kombu.message.Message.ack_log_error`.

    If it raises by itself, delete worker/consumer/ack_patch.py; otherwise adapt it and set KNOWN_SOURCE.
    """
    assert ack_patch.source_hash() == ack_patch.KNOWN_SOURCE


def test_without_the_guard_the_error_is_swallowed(message: Message) -> None:
    ack_patch._ORIGINAL(message, LOG, (ConnectionError,))


def test_with_the_guard_it_is_raised_in_the_task_and_in_the_loop(guard: None, loop: Hub, message: Message) -> None:
    with pytest.raises(ConnectionResetError):
        message.ack_log_error(LOG, (ConnectionError,))
    with pytest.raises(ConnectionResetError):
        next(loop.create_loop())


def test_an_acknowledgement_that_works_is_left_alone(guard: None, loop: Hub) -> None:
    class Channel(DeadChannel):
        acked: list[str] = []

        def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
            self.acked.append(delivery_tag)

    message = Message(channel=Channel(), delivery_tag="1")
    message.ack_log_error(LOG, (ConnectionError,))
    assert Channel.acked == ["1"]
    assert not loop._pop_ready()
