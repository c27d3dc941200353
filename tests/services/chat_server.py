"""An OpenAI-compatible server that can fail in every way a server can.

In a test's own process around any function that answers, or as a process of its own around the pocket model:
`python -m tests.services.chat_server --faults 503,,reset` prints its port, and answers every third request.
"""

import argparse
import base64
import io
import itertools
import json
import math
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self, cast

from PIL import Image

Tokens = list[tuple[str, float]]  # (token, logprob), likeliest first
PATH = "/v1/chat/completions"
MODEL = "tested-1"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request: its path, its headers, and what it asks about which image."""

    path: str
    headers: dict[str, str]
    fields: dict[str, Any]
    image_type: str
    image_bytes: bytes

    @property
    def text(self) -> str:
        return str(next(part["text"] for part in self.content if part["type"] == "text"))

    @property
    def content(self) -> list[dict[str, Any]]:
        """The parts of the user turn, in their order."""
        return list(self.fields["messages"][0]["content"])

    @property
    def image(self) -> Image.Image:
        return Image.open(io.BytesIO(self.image_bytes)).convert("RGB")


def by_colour(asked: Asked) -> Tokens:
    """A for a red picture, B for a green one, C for a blue one, and some words besides."""
    red, green, blue = cast("tuple[int, int, int]", asked.image.getpixel((0, 0)))
    weights = {"A": red + 1.0, "B": green + 1.0, "C": blue + 1.0, " A": 5.0, "The": 3.0, "I": 2.0}
    whole = 1.25 * sum(weights.values())
    found = [(token, math.log(weight / whole)) for token, weight in weights.items()]
    return sorted(found, key=lambda pair: -pair[1])


def completion(tokens: Tokens, **changes: Any) -> dict[str, Any]:
    """The body of a good answer; `changes` replace fields of its choice, or model and system_fingerprint."""
    top = [{"token": token, "logprob": logprob, "bytes": list(token.encode())} for token, logprob in tokens]
    choice = {
        "index": 0,
        "finish_reason": "length",
        "message": {"role": "assistant", "content": tokens[0][0]},
        "logprobs": {"content": [top[0] | {"top_logprobs": top}]},
    }
    whole = {"id": "1", "object": "chat.completion", "model": MODEL, "system_fingerprint": "fp_1"}
    names = ("model", "system_fingerprint")
    choice |= {name: value for name, value in changes.items() if name not in names}
    return whole | {name: changes[name] for name in names if name in changes} | {"choices": [choice]}


class ChatServer:
    """fault_of: the fault of a request, by name (the methods of `_Handler` say which); "" for a good answer."""

    def __init__(self, answer: Callable[[Asked], Tokens] = by_colour, *, faults: Iterable[str] = ()) -> None:
        self.begin_anew(answer, faults=faults)
        self.released = threading.Event()  # ends silent or dripping responses
        self.lock = threading.Lock()
        server = self

        class Handler(_Handler):
            chat = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def begin_anew(self, answer: Callable[[Asked], Tokens] = by_colour, *, faults: Iterable[str] = ()) -> None:
        """Forget all requests."""
        self.answer = answer
        self.faults = iter(faults)
        self.fault_of: Callable[[Asked], str] = lambda _: next(self.faults, "")
        self.asked: list[Asked] = []

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def encrypt(self, context: ssl.SSLContext) -> None:
        """Use TLS from now on."""
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)

    def serve_forever(self) -> None:
        self._http.serve_forever()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two small writes
    chat: ChatServer

    def do_POST(self) -> None:
        asked = self._asked()
        with self.chat.lock:
            self.chat.asked.append(asked)
            fault = self.chat.fault_of(asked)
        name, _, value = fault.partition(":")
        if name.isdigit():
            headers = {"Retry-After": value} if name in ("429", "503") and value else {}
            headers |= {"Location": value} if name.startswith("3") else {}
            words = value if not headers else "later"
            self._send({"error": {"message": words, "code": words}}, status=int(name), headers=headers)
            return
        self._fail(name, value, asked) if name else self._send(completion(self.chat.answer(asked)))

    def _fail(self, name: str, value: str, asked: Asked) -> None:
        tokens = self.chat.answer(asked)
        wrong = WRONG_ANSWERS.get(name)
        if wrong is not None:
            self._send(wrong(tokens))
            return
        body = json.dumps(completion(tokens)).encode()
        {
            "reset": self._reset,
            "truncated": lambda: self._raw(_head(len(body)) + body[:100]),
            "short": lambda: self._raw(_head(100) + body[:100]),
            "no_http": lambda: self._raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
            "garbage": lambda: self._raw(_head(11) + b"<html>\xff\xfe\x00</"),
            "deep": lambda: self._raw(_head(200_000) + b"[" * 200_000),
            "huge": lambda: self._raw(_head(1 << 30) + b" " * (4 << 20)),
            "long_header": lambda: self._raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * (4 << 20)),
            "silent": self._wait,
            "drip": lambda: self._drip(_head(1000) + b" " * 1000),
        }[name]()

    def _asked(self) -> Asked:
        fields = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = fields["messages"][0]["content"]
        url = next(part["image_url"]["url"] for part in content if part["type"] == "image_url")
        head, _, data = url.partition(";base64,")
        return Asked(
            path=self.path,
            headers={name.lower(): value for name, value in self.headers.items()},
            fields=fields,
            image_type=head.removeprefix("data:image/"),
            image_bytes=base64.b64decode(data, validate=True),
        )

    def _send(self, content: object, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(body), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def _raw(self, data: bytes) -> None:
        self.close_connection = True
        try:
            self.connection.sendall(data)
        except OSError:
            return  # the client closed the connection

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _wait(self) -> None:
        self.close_connection = True
        self.chat.released.wait()

    def _drip(self, data: bytes) -> None:
        self.close_connection = True
        for byte in data:
            try:
                self.connection.sendall(bytes([byte]))
            except OSError:
                return
            if self.chat.released.wait(0.02):
                return

    def finish(self) -> None:
        try:
            super().finish()
        except OSError:
            return  # reset

    def log_message(self, format: str, *args: Any) -> None:
        """Send nothing."""


def _head(length: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % length


def _first(value: Any) -> Callable[[Tokens], dict[str, Any]]:
    """A good answer whose likeliest token has this logprob."""
    return lambda tokens: completion([(tokens[0][0], value), *tokens[1:]])


WRONG_ANSWERS: dict[str, Callable[[Tokens], Any]] = {
    "nan": _first(math.nan),
    "infinite": _first(math.inf),
    "minus_infinite": _first(-math.inf),
    "over_zero": lambda _: completion([("A", 0.5), ("B", -9.0), ("C", -10.0)]),
    "over_one": lambda tokens: completion([(token, -0.1) for token, _ in tokens]),
    "text_for_number": _first("-0.1"),
    "true_for_number": _first(True),
    "twice": lambda tokens: completion([("A", -2.0), ("A", -2.0), *((token, -5.0) for token, _ in tokens[1:])]),
    "a_list": lambda tokens: [completion(tokens)],
    "null": lambda _: None,
    "no_choice": lambda tokens: completion(tokens) | {"choices": []},
    "byte_256": lambda tokens: completion(
        tokens, logprobs={"content": [{"token": "A", "logprob": -1.0, "bytes": [256], "top_logprobs": []}]}
    ),
    # errors that a person must fix
    "no_logprobs": lambda tokens: completion(tokens, logprobs=None),
    "no_content": lambda tokens: completion(tokens, logprobs={"content": None}),
    "no_rivals": lambda tokens: completion(
        tokens, logprobs={"content": [{"token": "A", "logprob": -1, "bytes": None, "top_logprobs": None}]}, message=None
    ),
    "one_token": lambda tokens: completion(tokens[:1]),
    "truncated_list": lambda tokens: completion([tokens[0], *((token, -9999.0) for token, _ in tokens[1:])]),
    # errors that may be counted against the image
    "other_words": lambda _: completion([("I", -0.1), ("Sorry", -3.0), ("The", -4.0)]),
    "ended": lambda tokens: completion(tokens, logprobs={"content": []}, finish_reason="stop"),
    "filtered": lambda tokens: completion(tokens, finish_reason="content_filter", logprobs=None),
    "refusal": lambda tokens: completion(
        tokens, message={"role": "assistant", "content": None, "refusal": "I cannot help"}, logprobs=None
    ),
    "nameless": lambda tokens: completion(tokens, model=None, system_fingerprint=None),
    # transient errors
    "renamed": lambda tokens: completion(tokens, model="tested-2"),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--faults", default="", help="Names of faults, an empty one for a good answer; begun anew.")
    parser.add_argument("--refuse-width", type=int, help="Images of this width are refused.")
    flags = parser.parse_args()
    from tests.rigs.pocket_answers import PocketAnswers

    server = ChatServer(PocketAnswers(), faults=itertools.cycle(flags.faults.split(",")))
    fault_of = server.fault_of
    server.fault_of = lambda asked: "400" if asked.image.width == flags.refuse_width else fault_of(asked)
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
