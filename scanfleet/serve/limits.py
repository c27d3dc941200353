"""How much a request may send."""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SLACK = 64 * 1024  # bytes of a form around its file
BASE64 = 4 / 3


class BodyTooLarge(Exception):
    """More arrived than is allowed."""


class BodyLimit:
    """Refuses a body that is larger than the largest image as base64, before it is read, and while it arrives."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._most = int(max_bytes * BASE64) + SLACK

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self._most:
            await self._refuse(scope, receive, send)
            return
        n_read, begun = 0, False

        async def counted() -> Message:
            nonlocal n_read
            message = await receive()
            n_read += len(message.get("body", b""))
            if n_read > self._most:
                raise BodyTooLarge
            return message

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, counted, watched)
        except BodyTooLarge:
            if begun:
                raise
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        detail = f"a request has at most {self._most} bytes (setting max_image_bytes)"
        body = {"type": "too-large", "title": "Content Too Large", "status": 413, "detail": detail}
        answer = JSONResponse(body, 413, {"connection": "close"}, media_type="application/problem+json")
        await answer(scope, receive, send)
