"""The scorer whose forward runs in an OpenAI-compatible server: vLLM, SGLang, a hosted model.

    request    instruction and letter menu, then the image; one token; the logprobs of the likeliest tokens
    label      logsumexp over the listed spellings of its letter
    margin     logsumexp(flagging labels) - logsumexp(the others): as from `models.scoring.prefill`, because the log
               partition by which logprobs differ from logits is the same for all labels

The letters are A, B, C … without a look at the server's tokenizer: every tokenizer in use has them as single tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_lowercase, ascii_uppercase, digits

from PIL import Image

from models.endpoint.chat import ChatServer
from models.endpoint.errors import EndpointChanged
from models.endpoint.image import EncodedImage, ImageEncoding
from models.endpoint.logprobs import Listing, read_labels
from models.errors import ModelInvalid
from models.inputs.prompts import LabelCode, instruction
from models.scoring.margin import margin_of
from models.types import Detail, ModelIdentity, Question, Reading

LETTERS = ascii_uppercase + ascii_lowercase + digits
REMOTE = "remote"  # the precision of weights that lie elsewhere
GREY = (127, 127, 127)

TRIAL = Question(name="trial", prompt="Is this picture grey?", labels=("yes", "no"), flags=frozenset({"yes"}))


class EndpointScorer:
    """Implements `models.types.Scorer`. Both `prepare` and `score` are thread-safe.

    identity: as `identify` found it. An answer by another model than that is refused.
    """

    def __init__(
        self, *, server: ChatServer, question: Question, identity: ModelIdentity, encoding: ImageEncoding
    ) -> None:
        self._server = server
        self._question = question
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
        """Four pixels of the decoded image for one that is sent, so that resizing has enough to average."""
        return Detail(pixels=4 * self._question.max_pixels, short_side=1)

    def prepare(self, image: Image.Image) -> EncodedImage:
        """Resize to the question's pixel budget and encode."""
        question = self._question
        return self._encoding.encode(image, max_pixels=question.max_pixels, min_pixels=question.min_pixels)

    def plain(self) -> EncodedImage:
        """An image that nobody can refuse, for finding out whether it is the image that is refused."""
        return self.prepare(Image.new("RGB", (1, 1), GREY))

    def score(self, prepared: Sequence[EncodedImage]) -> list[Reading]:
        """One request an image, one after the other. Raises as `models.endpoint.errors` says."""
        return [self._read(image) for image in prepared]

    def _read(self, image: EncodedImage) -> Reading:
        listing = self._server.ask(self._text, image.data_url)
        now, then = _model(listing), self._identity.revision.split(" ")[0]
        if now != then:
            raise EndpointChanged(f"the server answers as model {now}, and as {then} when this worker began")
        logits, mass = read_labels(listing, self._codes)
        return Reading(
            margin=margin_of(logits, self._question.labels, self._question.flags),
            logits=logits,
            mass=mass,
            visual_tokens=image.visual_tokens,
        )


def identify(server: ChatServer, *, name: str, encoding: ImageEncoding) -> ModelIdentity:
    """Who answers, found out by a trial question, which also shows that the server takes images and gives logprobs.

    name: the base model's, as the ledger shall know it. The revision is what the server calls its model (with hosted
    ones, a dated version), its fingerprint, and how images are sent.
    Raises EndpointBusy, EndpointMisused, AnswerRefused.
    """
    text = instruction(TRIAL, [_code(label, at) for at, label in enumerate(TRIAL.labels)])
    grey = Image.new("RGB", (1, 1), GREY)
    plain = encoding.encode(grey, max_pixels=TRIAL.max_pixels, min_pixels=TRIAL.min_pixels)
    listing = server.ask(text, plain.data_url)
    said = [_model(listing), listing.fingerprint or "", encoding.identity_part]
    revision = " ".join("_".join(part.split()) for part in said if part)
    return ModelIdentity(base_model=name, revision=revision, precision=REMOTE, adapter_sha256=None)


def letters(question: Question) -> tuple[str, ...]:
    """The code of each label. Raises ModelInvalid for more labels than there are letters and digits."""
    if len(question.labels) > len(LETTERS):
        raise ModelInvalid(
            f"the question has {len(question.labels)} labels and an endpoint can be asked for {len(LETTERS)} at most: "
            "ask with fewer labels or use a model of our own"
        )
    return tuple(LETTERS[: len(question.labels)])


def _code(label: str, at: int) -> LabelCode:
    return LabelCode(label=label, code=LETTERS[at], token_ids=())


def _model(listing: Listing) -> str:
    return "_".join((listing.model or "unknown").split())
