"""An OpenAI-compatible server as the worker's model (`endpoint:NAME`), with errors that the fleet handles.

A refusal counts against an image only if the server accepts a plain grey image with the same question right after it,
and then refuses the image a second time. Else the cause is the server or a setting, and everything waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import structlog
from PIL import Image

from scanfleet.config.endpoints import model_at_endpoint
from scanfleet.config.model_names import require_address
from scanfleet.config.settings import Settings
from scanfleet.config.urls import unencrypted
from scanfleet.errors import BadSettings, DeviceUnavailable, ImageError, ScanfleetError
from scanfleet.models.crops.policy import CropPolicy
from scanfleet.models.endpoint.chat import ChatServer, RequestOptions
from scanfleet.models.endpoint.errors import AnswerRefused, EndpointBusy, EndpointChanged, EndpointMisused
from scanfleet.models.endpoint.http import HttpChannel
from scanfleet.models.endpoint.image import EncodedImage, ImageEncoding
from scanfleet.models.endpoint.scorer import EndpointScorer, identify
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.types import (
    CropReader,
    Detail,
    Explainer,
    Finder,
    ModelIdentity,
    Order,
    Question,
    Reading,
    Scorer,
    SeveralScorer,
    Written,
)
from scanfleet.worker.errors import DeviceBroken
from scanfleet.worker.scoring.rate_limit import REAL_TIME, Clock, RateLimit, RateLimitedServer

log = structlog.get_logger()


def load_endpoint(settings: Settings, *, clock: Clock = REAL_TIME) -> EndpointModel:
    """Return the server in the settings, after a test request. Raises BadSettings or DeviceUnavailable."""
    name, url = _checked(settings)
    key = None if settings.endpoint_key is None else settings.endpoint_key.get_secret_value()
    flaw = unencrypted(url)
    if flaw is not None:
        log.warning("connection_unencrypted", reason=flaw)
    with _at_start():
        channel = HttpChannel(
            url=url,
            key=key,
            timeout_seconds=settings.endpoint_timeout_seconds,
            connections=streams_for(settings),
            ca_file=settings.endpoint_ca_file,
        )
    options = RequestOptions(model=name, top_logprobs=settings.endpoint_top_logprobs)
    server = ChatServer(channel=channel, options=options, key=key)
    try:
        with _at_start():
            identity = identify(server, name=settings.model, encoding=encoding_of(settings))
    except ScanfleetError:
        channel.close()
        raise
    log.info("endpoint_ready", model=identity.base_model, revision=identity.revision, streams=streams_for(settings))
    return EndpointModel(server=server, identity=identity, settings=settings, channel=channel, clock=clock)


def streams_for(settings: Settings) -> int:
    """Return the concurrent requests: the rate limit must admit all in half the time before an image's last request."""
    per_minute = settings.endpoint_requests_per_minute
    if per_minute is None:
        return settings.endpoint_concurrency
    spare = settings.endpoint_patience_seconds - settings.endpoint_timeout_seconds
    return int(max(1, min(settings.endpoint_concurrency, per_minute / 60.0 * spare / 2)))


def encoding_of(settings: Settings) -> ImageEncoding:
    return ImageEncoding(image_format=settings.endpoint_image_format, grid=settings.endpoint_image_grid)


class EndpointModel:
    """Implements `worker.scoring.model.Model`. It refuses adapters: a server serves each under a model name."""

    one_by_one = True
    order: Order = "image-first"
    rotates = False  # each order would be one more request

    def __init__(
        self,
        *,
        server: ChatServer,
        identity: ModelIdentity,
        settings: Settings,
        channel: HttpChannel,
        clock: Clock,
    ) -> None:
        self.identity = identity
        self.device = settings.endpoint_url or ""
        self.streams = streams_for(settings)
        self._server = server
        self._settings = settings
        self._channel = channel
        self._limited = RateLimitedServer(
            rate_limit=RateLimit(settings.endpoint_requests_per_minute, clock),
            patience_seconds=settings.endpoint_patience_seconds,
            timeout_seconds=settings.endpoint_timeout_seconds,
            clock=clock,
        )

    def scorer(self, question: Question, adapter: Path | None, *, policy: CropPolicy | None = None) -> Scorer:
        if adapter is not None:
            raise ModelInvalid("an endpoint takes no adapter: load it on the server, and set model = endpoint:ADAPTER")
        return cast("Scorer", RetryingScorer(self._scorer(question), self._limited))

    def _scorer(self, question: Question) -> EndpointScorer:
        encoding = encoding_of(self._settings)
        return EndpointScorer(server=self._server, question=question, identity=self.identity, encoding=encoding)

    def plain(self, question: Question) -> Scorer:
        return self.scorer(question, None)

    def together(self, scorers: Sequence[Scorer]) -> SeveralScorer | None:
        return None

    def crop_reader(self, question: Question, policy: CropPolicy, adapter: Path | None) -> CropReader:
        raise ModelInvalid(f'an endpoint has no crop pass: set crop = "never" in check {question.name}')

    def finder(self, question: Question, adapter: Path | None) -> Finder:
        raise ModelInvalid(f"an endpoint finds no boxes: set boxes = false in check {question.name}")

    def explainer(self, question: Question, adapter: Path | None, *, tokens: int) -> Explainer:
        return cast("Explainer", RetryingExplainer(self._scorer(question), self._limited, tokens=tokens))

    def release(self, adapter_sha256: str) -> None:
        """Do nothing: no adapter is ever loaded."""

    def close(self) -> None:
        """Close the connections. Requests under way end with DeviceUnavailable."""
        self._channel.close()


class RetryingScorer:
    """An EndpointScorer that retries, and finds out whether a refusal counts against the image."""

    def __init__(self, scorer: EndpointScorer, limited: RateLimitedServer) -> None:
        self._scorer = scorer
        self._limited = limited
        self._plain = scorer.plain()

    @property
    def question(self) -> Question:
        return self._scorer.question

    @property
    def identity(self) -> ModelIdentity:
        return self._scorer.identity

    @property
    def detail(self) -> Detail | None:
        return self._scorer.detail

    def prepare(self, image: Image.Image) -> EncodedImage:
        return self._scorer.prepare(image)

    def score(self, prepared: Sequence[EncodedImage]) -> list[Reading]:
        """Raises ImageError (of one image), DeviceUnavailable, DeviceBroken."""
        return [self._one(image) for image in prepared]

    def _one(self, image: EncodedImage) -> Reading:
        deadline = self._limited.deadline()
        with _while_scoring():
            try:
                return self._ask(image, deadline)
            except AnswerRefused as refused:
                self._require_plain(refused, deadline)
            try:
                return self._ask(image, deadline)
            except AnswerRefused as refused:
                raise ImageError(stage="score", reason=refused.reason, detail=str(refused)) from refused

    def _require_plain(self, refused: AnswerRefused, deadline: float) -> None:
        """Raise DeviceUnavailable if the server refuses a plain image, too."""
        try:
            self._ask(self._plain, deadline)
        except AnswerRefused as again:
            raise DeviceUnavailable(
                f"check {self.question.name}: the server refuses a plain grey image, too ({again}): "
                "check the server, its options and the prompt"
            ) from refused

    def _ask(self, image: EncodedImage, deadline: float) -> Reading:
        return self._limited.ask(lambda: self._scorer.score([image])[0], deadline=deadline)


@dataclass(frozen=True, kw_only=True)
class ExplainedImage:
    """A flagged image, and the reading to explain."""

    image: EncodedImage
    reading: Reading

    @property
    def visual_tokens(self) -> int:
        return self.image.visual_tokens


class RetryingExplainer:
    """Asks for each explanation in a second request, and retries while the server is not available."""

    def __init__(self, scorer: EndpointScorer, limited: RateLimitedServer, *, tokens: int) -> None:
        self._scorer = scorer
        self._limited = limited
        self._tokens = tokens

    def job(self, prepared: EncodedImage, reading: Reading) -> ExplainedImage:
        return ExplainedImage(image=prepared, reading=reading)

    def explain(self, jobs: Sequence[ExplainedImage], *, heartbeat: Callable[[], None]) -> list[Written]:
        """Raises AnswerRefused, DeviceUnavailable, DeviceBroken."""
        with _while_scoring():
            return [self._one(job) for job in jobs]

    def _one(self, job: ExplainedImage) -> Written:
        return self._limited.ask(
            lambda: self._scorer.explain(job.image, job.reading, max_tokens=self._tokens),
            deadline=self._limited.deadline(),
        )


def _checked(settings: Settings) -> tuple[str, str]:
    """Return model name and address. Raises BadSettings for settings that contradict each other."""
    name, url = model_at_endpoint(settings.model), settings.endpoint_url
    if name is None:
        raise BadSettings(f"model: {settings.model!r} names no model on a server: write endpoint:NAME")
    require_address(settings)
    assert url is not None
    if settings.precision != "auto" or settings.model_revision is not None:
        raise BadSettings("precision and model_revision: an endpoint's server sets them; remove both settings")
    interval = 60.0 / (settings.endpoint_requests_per_minute or float("inf"))
    least = settings.endpoint_timeout_seconds + interval
    most = min(settings.device_timeout_seconds, settings.batch_stall_seconds)
    if not least <= settings.endpoint_patience_seconds < most:
        raise BadSettings(
            f"endpoint_patience_seconds: must be at least {least:g} (endpoint_timeout_seconds and the rate limit's "
            f"interval) and less than {most:g} (device_timeout_seconds, batch_stall_seconds)"
        )
    return name, url


@contextmanager
def _at_start() -> Iterator[None]:
    """Map errors at the start: a setting that is wrong then will not work later, so the worker does not wait."""
    try:
        yield
    except (EndpointMisused, AnswerRefused) as error:
        raise BadSettings(f"endpoint: {error}") from error
    except EndpointBusy as error:
        raise DeviceUnavailable(f"endpoint: {error}") from error


@contextmanager
def _while_scoring() -> Iterator[None]:
    """Map errors while scoring: keys and servers get fixed under a running worker, so everything waits."""
    try:
        yield
    except EndpointMisused as error:
        raise DeviceUnavailable(f"endpoint: {error}") from error
    except EndpointChanged as error:
        # Verdicts must name the model that gave them: a new process identifies it anew.
        raise DeviceBroken(f"endpoint: {error}") from error
