"""Who looks again for a check, and how the margins of its looks are read.

A calibrator and certified thresholds belong to one configuration. An adapter's own were fitted to first looks under its
own pixel budget; for any other budget, and for a check with second looks, those in the ledger count that were fitted
to exactly this (`scanfleet.db.results.calibrations`). Where there are none there is no score. For another budget the
adapter's thresholds move apart by UNTRIED. With second looks they hold for an image that had only its first one; one
that was looked at again is flagged over a threshold moved by what the gate itself calls uncertain (UNTRIED at least),
and never cleared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from models.adapters.calibration import Calibrator, Thresholds
from models.errors import ModelInvalid
from models.types import CropReader, Pointed, Question, Scorer
from scanfleet.checks.check import Check
from scanfleet.checks.crop import CropSettings
from scanfleet.db.results.calibrations import Fitted
from worker.scoring.crop_gate import Band, band_of, policy_of
from worker.scoring.decisions import Policy, read_policy
from worker.scoring.model import Model

UNTRIED = 0.5  # logits; as far as the margins of an adapter may move in 4 bit (models.adapters.canary)
TRIAL_SIDE = 256  # pixels of the plain picture that a refiner is tried with


@dataclass(frozen=True, kw_only=True, eq=False)
class CropSetup:
    """How images of a check are looked at again. band: margins of the first look that settle nothing."""

    crop_reader: CropReader
    settings: CropSettings
    band: Band

    @property
    def method(self) -> str | None:
        """Of the map that points the look; None: it is not pointed."""
        return self.settings.method if self.crop_reader.pointed else None


@dataclass(frozen=True, kw_only=True)
class Margins:
    """policy: of the margins after all looks. band: of those after the first one."""

    policy: Policy
    band: Band


def margins_of(check: Check, own: Policy, *, same_budget: bool, fitted: Fitted | None) -> Margins:
    """How the margins of a configuration are read.

    own: by the adapter's word, in this precision; of the base alone a bare one. same_budget: whether the adapter was
    made for the check's pixel budget. fitted: what the ledger has for exactly this configuration.

    Raises TypeError or ValueError when `fitted` holds something else than calibrator and thresholds.
    """
    crop = None if isinstance(check.crop, str) else check.crop
    policy, first, even = own, own.thresholds, own.calibrator
    if fitted is not None:
        policy = read_policy(own.question, calibrator=fitted.calibrator, thresholds=fitted.thresholds)
        first = first if fitted.first_thresholds is None else Thresholds(**fitted.first_thresholds)
        even = even or policy.calibrator
    else:
        once = own if same_budget else own.uncertified(UNTRIED)
        policy = once if crop is None else own.after_uncalibrated_crop(max(crop.band, UNTRIED), once=once)
    return Margins(policy=policy, band=_band(check, first, even))


def _band(check: Check, first: Thresholds | None, even: Calibrator | None) -> Band:
    return band_of(thresholds=first, calibrator=even, has_flags=bool(check.flags))


def crop_setup_of(
    model: Model, check: Check, question: Question, adapter: Path | None, *, scorer: Scorer, band: Band
) -> CropSetup | None:
    """Who looks again; None where the check does not ask. Tried on a plain picture, so that a model that cannot look
    like this says so before any image waits for it.

    Raises ModelInvalid, ModelUnavailable, DeviceUnavailable.
    """
    if isinstance(check.crop, str):
        return None
    crop_reader = model.crop_reader(question, policy_of(check, check.crop), adapter)
    _try(crop_reader, scorer)
    return CropSetup(crop_reader=crop_reader, settings=check.crop, band=band)


def _try(crop_reader: CropReader, scorer: Scorer) -> None:
    image = Image.new("RGB", (TRIAL_SIDE, TRIAL_SIDE), (128, 128, 128))
    (first,) = scorer.score([scorer.prepare(image)])
    pointed = None
    if crop_reader.pointed:
        (found,) = crop_reader.point([crop_reader.views(image, first)])
        quarter = TRIAL_SIDE // 4
        pointed = Pointed(corners=(quarter, quarter, 3 * quarter, 3 * quarter), size=image.size, tokens=found.tokens)
    second = [reading for row in crop_reader.rows(image, pointed) for reading in scorer.score([row])]
    if len(crop_reader.fuse(first, second).logits) != len(scorer.question.labels):
        raise ModelInvalid("a second look does not answer with the labels of the check")
