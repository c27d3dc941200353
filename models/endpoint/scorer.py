"""The scorer whose forward runs in an OpenAI-compatible server: vLLM, SGLang, a hosted model.

    request    the image, then instruction and letter menu (or the other way round); one token; the logprobs of the
               likeliest tokens
    label      logsumexp over the listed spellings of its letter
    margin     logsumexp(flagging labels) - logsumexp(the others): as from `models.scoring.prefill`, because the log
               partition by which logprobs differ from logits is the same for all labels

The letters are A, B, C … without a check of the server's tokenizer: every tokenizer in use has them as single tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from string import ascii_lowercase, ascii_uppercase, digits

from PIL import Image

from scanfleet.models.endpoint.chat import ChatServer
from scanfleet.models.endpoint.errors import EndpointChanged
from scanfleet.models.endpoint.image import EncodedImage, ImageEncoding
from scanfleet.models.endpoint.logprobs import read_labels
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.inputs.further_turn import WHY
from scanfleet.models.inputs.prompts import LabelCode, instruction
from scanfleet.models.scoring.margin import likeliest_flag, margin_of
from scanfleet.models.types import Detail, ModelIdentity, Question, Reading, Written

LETTERS = ascii_uppercase + ascii_lowercase + digits
REMOTE = "remote"  # the precision of weights on a server
GREY = (127, 127, 127)

TRIAL = Question(name="trial", prompt="Is this picture grey?", labels=("yes", "no"), flags=frozenset({"yes"}))


class EndpointScorer:
    """Scores images on a server. Implements `models.types.Scorer`; `prepare` and `score` are thread-safe.

    Args:
        server: the connection.
        question: to ask.
        identity: from `identify`; an answer by another model is refused.
        encoding: of the images.

    Raises:
        ModelInvalid: the question has more labels than there are letters and digits.
    """

    def __init__(
        self, *, server: ChatServer, question: Question, identity: ModelIdentity, encoding: ImageEncoding
    ) -> None:
        self._server = server
        self._question = question if question.order else replace(question, order="image-first")
        self._identity = identity
        self._encoding = encoding
        self._codes = letters(question)
        self._text = instruction(question, [_code(label, at) for at, label in enumerate(question.labels)])

    @property
    def question(self) -> Question:
        return self._question

    @property
    def identity(self) -> ModelIdentity:
        return self._identity

    @property
    def detail(self) -> Detail | None:
        """Four pixels of the decoded image for each pixel sent, so that resizing has enough to average."""
        return Detail(pixels=4 * self._question.max_pixels, short_side=1)

    def prepare(self, image: Image.Image) -> EncodedImage:
        """Resize to the question's pixel budget and encode."""
        question = self._question
        return self._encoding.encode(image, max_pixels=question.max_pixels, min_pixels=question.min_pixels)

    def plain(self) -> EncodedImage:
        """Return a plain grey image, to find out whether a refusal is caused by the image."""
        return self.prepare(Image.new("RGB", (1, 1), GREY))

    def score(self, prepared: Sequence[EncodedImage]) -> list[Reading]:
        """Send one request per image, in order.

        Raises:
            EndpointBusy, EndpointChanged, EndpointMisused, AnswerRefused: see `models.endpoint.errors`.
        """
        return [self._read(image) for image in prepared]

    def _read(self, image: EncodedImage) -> Reading:
        listing = self._server.ask(self._text, image.data_url, image_first=self._question.image_first)
        self._require_same(listing.model)
        logits, mass = read_labels(listing, self._codes)
        return Reading(
            margin=margin_of(logits, self._question.labels, self._question.flags),
            logits=logits,
            mass=mass,
            visual_tokens=image.visual_tokens,
        )

    def explain(self, image: EncodedImage, reading: Reading, *, max_tokens: int) -> Written:
        """Send a second request: why the likeliest flagging label is the answer.

        Raises:
            EndpointBusy, EndpointChanged, EndpointMisused, AnswerRefused: see `models.endpoint.errors`.
        """
        question = self._question
        label = likeliest_flag(reading.logits, question.labels, question.flags)
        told = self._server.tell(
            self._text,
            image.data_url,
            answer=self._codes[question.labels.index(label)],
            then=WHY,
            max_tokens=max_tokens,
            image_first=question.image_first,
        )
        self._require_same(told.model)
        return Written(text=told.text, cut=told.cut)

    def _require_same(self, model: str | None) -> None:
        now, then = _named(model), self._identity.revision.split(" ")[0]
        if now != then:
            raise EndpointChanged(f"the server now answers as model {now}; it was {then} when this worker started")


def identify(server: ChatServer, *, name: str, encoding: ImageEncoding) -> ModelIdentity:
    """Find out which model answers, by a trial question.

    The trial also shows that the server reads images and returns logprobs.

    Args:
        server: the connection.
        name: of the base model in the ledger.
        encoding: of the images.

    Returns:
        The identity. Its revision holds the server's name of the model (a dated version for hosted ones), its
        fingerprint and the encoding.

    Raises:
        EndpointBusy, EndpointMisused, AnswerRefused: see `models.endpoint.errors`.
    """
    text = instruction(TRIAL, [_code(label, at) for at, label in enumerate(TRIAL.labels)])
    grey = Image.new("RGB", (1, 1), GREY)
    plain = encoding.encode(grey, max_pixels=TRIAL.max_pixels, min_pixels=TRIAL.min_pixels)
    listing = server.ask(text, plain.data_url)
    parts = [_named(listing.model), listing.fingerprint or "", encoding.identity_part]
    revision = " ".join("_".join(part.split()) for part in parts if part)
    return ModelIdentity(base_model=name, revision=revision, precision=REMOTE, adapter_sha256=None)


def letters(question: Question) -> tuple[str, ...]:
    """Return the code of each label.

    Raises:
        ModelInvalid: there are more labels than letters and digits.
    """
    if len(question.labels) > len(LETTERS):
        raise ModelInvalid(
            f"the question has {len(question.labels)} labels and an endpoint supports {len(LETTERS)} at most: "
            "use fewer labels or a local model"
        )
    return tuple(LETTERS[: len(question.labels)])


def _code(label: str, at: int) -> LabelCode:
    return LabelCode(label=label, code=LETTERS[at], token_ids=())


def _named(model: str | None) -> str:
    return "_".join((model or "unknown").split())
