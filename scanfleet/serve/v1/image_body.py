"""Reads what a request asks: an image as a form's file, as base64, or as a uri; and the names of checks."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from scanfleet.config.settings import Settings
from scanfleet.db.scans.new_images import NewImage
from scanfleet.serve.problems import ProblemError
from scanfleet.serve.sources import allowed_image
from scanfleet.serve.uploads import keep

MAX_PARTS = 20


class Question(BaseModel):
    """An image and the checks to ask of it. One of image and uri."""

    model_config = ConfigDict(extra="forbid")

    image: str | None = Field(None, description="The file as base64; `data:image/...;base64,` may stand before it.")
    uri: str | None = Field(None, description="s3://, https:// or a path that the server allows.", max_length=4096)
    checks: list[str] = Field(
        ["overlay"], min_length=1, max_length=16, description="Names of checks.", examples=[["overlay"]]
    )


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """data: the bytes, unless a uri was given."""

    data: bytes | None
    uri: str | None
    checks: tuple[str, ...]

    def place(self, settings: Settings) -> NewImage:
        """Return the image, which is stored if it was sent. Raises RequestError, StoreUnavailable."""
        return allowed_image(self.uri or "", settings) if self.data is None else keep(self.data, settings)


OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        "checks": {"type": "string", "description": "Names, with commas.", "default": "overlay"},
                    },
                }
            },
            "application/json": {"schema": Question.model_json_schema()},
        },
    }
}


async def read_wanted(request: Request, settings: Settings) -> Wanted:
    """Raises ProblemError: 413 for too many bytes, 415 for another type, 422 for what is missing."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        wanted = await _of_form(request)
    elif kind == "application/json":
        wanted = _of_json(await request.body())
    else:
        raise ProblemError(415, "bad-type", "send multipart/form-data with a file `image`, or application/json")
    if wanted.data is not None and len(wanted.data) > settings.max_image_bytes:
        most = settings.max_image_bytes
        raise ProblemError(413, "too-large", f"the image has more than {most} bytes (setting max_image_bytes)")
    if wanted.data == b"":
        raise ProblemError(422, "invalid", "the image has no bytes")
    return wanted


async def _of_form(request: Request) -> Wanted:
    try:
        async with request.form(max_files=1, max_fields=MAX_PARTS) as form:
            image = form.get("image")
            if not isinstance(image, UploadFile):
                raise ProblemError(422, "invalid", "the form needs a file `image`")
            given = [each for each in form.getlist("checks") if isinstance(each, str)]
            data = await image.read()
    except (MultiPartException, HTTPException) as error:
        said = error.message if isinstance(error, MultiPartException) else error.detail
        raise ProblemError(422, "invalid", f"the form cannot be read: {said}") from None
    names = [name.strip() for each in given for name in each.split(",")]
    return _checked(data, None, [name for name in names if name] or ["overlay"])


def _of_json(body: bytes) -> Wanted:
    try:
        asked = Question.model_validate_json(body)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_input=False))
        raise ProblemError(422, "invalid", "; ".join(faults)) from None
    if (asked.image is None) == (asked.uri is None):
        raise ProblemError(422, "invalid", "give one of image and uri")
    if asked.image is None:
        return _checked(None, asked.uri, asked.checks)
    text = asked.image.partition(",")[2] if asked.image.startswith("data:") else asked.image
    try:
        return _checked(base64.b64decode(text, validate=True), None, asked.checks)
    except (binascii.Error, ValueError):
        raise ProblemError(422, "invalid", "image: this is no base64") from None


def _checked(data: bytes | None, uri: str | None, names: list[str]) -> Wanted:
    for name in names:
        if "/" in name or name.endswith(".toml") or "\0" in name:
            raise ProblemError(422, "invalid", "checks: names alone, no files of the server")
    return Wanted(data=data, uri=uri, checks=tuple(dict.fromkeys(names)))
