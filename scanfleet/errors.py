"""The one tree of errors. Its first fork decides what happens to an image.

ScanfleetError
 ├─ Retryable              a transient error: try again later; never a verdict, never a failed image
 │   ├─ StoreUnavailable       bucket or folder cannot be read right now
 │   │   └─ ObjectRefused          this object; a failure of the image once others could be read
 │   ├─ DatabaseUnavailable    the ledger cannot be reached
 │   ├─ LedgerReplaced         ids that this process keeps name other rows now
 │   ├─ BrokerUnavailable      the queue cannot be reached
 │   ├─ DeviceUnavailable      the model cannot run right now
 │   │   └─ DecodersUnavailable    no decoder process can be started
 │   └─ WorkerDied             a local worker ended while there was work left
 ├─ LeaseLost              another worker owns the batch now: write nothing, continue
 └─ Permanent              trying again gives the same result
     ├─ ImageError             this image: recorded once, with stage and reason; the others continue
     └─ RequestError           the request: one line that says what to do, and an exit code
         ├─ BadSettings (UnknownModel)  BadCheck  BadManifest  BadSource
         ├─ SourceNotFound  AccessDenied  EmptySource
         ├─ UnknownName  SchemaOutdated (SchemaTooNew)  MissingExtra  ScanIncomplete
         └─ BadLabels  GateNotPassed  TrainingFailed  DriftAlarm  BadQuery  DanglingPointers
"""

from __future__ import annotations


class ScanfleetError(Exception):
    """An error with a name and an exit code of its own."""

    exit_code = 1


class Retryable(ScanfleetError):
    """A transient error: the same call may succeed later."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class StoreUnavailable(Retryable):
    """The object store cannot be read right now."""


class ObjectRefused(StoreUnavailable):
    """The store refuses one object. Only what others get tells whether that is the object's affair.

    failure: the error of the image, if it is.
    """

    def __init__(self, message: str, failure: ImageError) -> None:
        super().__init__(message)
        self.failure = failure


class DatabaseUnavailable(Retryable):
    """The database cannot be reached right now."""


class LedgerReplaced(Retryable):
    """Ids that this process keeps name other rows now: the database was restored, or a standby took over."""


class BrokerUnavailable(Retryable):
    """The message broker cannot be reached right now."""


class DeviceUnavailable(Retryable):
    """The model cannot run on the device right now."""


class DecodersUnavailable(DeviceUnavailable):
    """No decoder process can be started, or this process is stopping; the image is not the cause."""


class WorkerDied(Retryable):
    """A local worker ended while there was work left; the same command resumes it."""

    exit_code = 21


class LeaseLost(ScanfleetError):
    """The batch belongs to another worker by now."""


class Permanent(ScanfleetError):
    """Trying again gives the same result."""


class ImageError(Permanent):
    """One image cannot be scored.

    stage: where it failed (fetch, decode, prepare, score, process).
    reason: a short stable word to filter by (gone, changed, empty, truncated, not_an_image, too_many_pixels ...).
    """

    def __init__(self, *, stage: str, reason: str, detail: str) -> None:
        super().__init__(f"{stage}: {reason}: {detail}")
        self.stage = stage
        self.reason = reason
        self.detail = detail


class RequestError(Permanent):
    """The request cannot be carried out as given."""

    exit_code = 2


class BadSettings(RequestError):
    """A setting has an invalid value."""

    exit_code = 10


class UnknownModel(BadSettings):
    """The hub has no model of this name, or refuses it."""

    exit_code = 26


class BadCheck(RequestError):
    """A check file is invalid."""

    exit_code = 11


class BadManifest(RequestError):
    """A manifest is invalid."""

    exit_code = 12


class BadSource(RequestError):
    """A source cannot be understood."""

    exit_code = 13


class SourceNotFound(RequestError):
    """The folder, bucket or manifest does not exist."""

    exit_code = 14


class AccessDenied(RequestError):
    """The folder or bucket refuses to be read."""

    exit_code = 15


class EmptySource(RequestError):
    """There is no image in the source."""

    exit_code = 16


class UnknownName(RequestError):
    """No scan, check, image or adapter has this name."""

    exit_code = 17


class SchemaOutdated(RequestError):
    """The database schema is not the one this version needs."""

    exit_code = 18


class SchemaTooNew(SchemaOutdated):
    """A later release has upgraded the database: this one is the outdated part."""


class MissingExtra(RequestError):
    """An optional part of scanfleet is not installed."""

    exit_code = 19


class ScanIncomplete(RequestError):
    """The scan ended with images that could not be scored."""

    exit_code = 20


class BadLabels(RequestError):
    """A label, or a file of labels, is invalid; nothing of it was written."""

    exit_code = 22


class GateNotPassed(RequestError):
    """An adapter is not put in use: the gate's verdict is not "promote"."""

    exit_code = 23


class TrainingFailed(RequestError):
    """A training ended without an adapter."""

    exit_code = 24


class DriftAlarm(RequestError):
    """Answers have drifted, and the exit code was asked to report it."""

    exit_code = 25


class BadQuery(RequestError):
    """The SQL of a question is wrong, does more than read, or takes too long."""

    exit_code = 27


class DanglingPointers(RequestError):
    """Rows of the ledger point to rows that are gone: somebody deleted by hand."""

    exit_code = 28


class BadExperiment(RequestError):
    """The specification of an experiment is invalid, or its images are too few."""

    exit_code = 29
