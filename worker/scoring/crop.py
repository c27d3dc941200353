"""What the crop pass of a check needs, and how margins are interpreted with and without it.

A calibrator and certified thresholds belong to one configuration. An adapter's own were fitted to first passes under
its own pixel budget. For any other budget, and for a check with a crop pass, those in the database count that were
fitted to exactly this configuration (`scanfleet.db.results.calibrations`). Where there are none there is no score. For
another budget the adapter's thresholds move apart by UNTRIED. With a crop pass they hold for an image that had its
first pass only. An image that had a crop is flagged above a threshold that is raised by the check's uncertain band (at
least UNTRIED), and never cleared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from scanfleet.checks.check import Check
from scanfleet.checks.crop import CropSettings
from scanfleet.db.results.calibrations import Fitted
from scanfleet.models.adapters.calibration import Calibrator, Thresholds
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.types import CropReader, Pointed, Question, Scorer
from scanfleet.worker.scoring.crop_selection import Band, band_of, policy_of
from scanfleet.worker.scoring.decisions import Policy, read_policy
from scanfleet.worker.scoring.model import Model

UNTRIED = 0.5  # logits; the most that the margins of an adapter may move in 4 bit (models.adapters.canary)
TRIAL_SIDE = 256  # pixels of the plain picture that a crop reader is tested with


@dataclass(frozen=True, kw_only=True, eq=False)
class CropSetup:
    """What a check's crop pass needs. band: margins of the first pass that are uncertain."""

    crop_reader: CropReader
    settings: CropSettings
    band: Band

    @property
    def method(self) -> str | None:
        """The method of the relevance map that selects the crop; None: no map does."""
        return self.settings.method if self.crop_reader.pointed else None


@dataclass(frozen=True, kw_only=True)
class Margins:
    """How margins are interpreted. policy: after all passes. band: the uncertain ones after the first pass."""

    policy: Policy
    band: Band


def margins_of(check: Check, own: Policy, *, same_budget: bool, fitted: Fitted | None) -> Margins:
    """Return how the margins of a configuration are interpreted.

    own: the adapter's policy in this precision; for the base alone, one without calibrator and thresholds.
    same_budget: whether the adapter was made for the check's pixel budget. fitted: calibrator and thresholds in the
    database for exactly this configuration.

    Raises TypeError or ValueError if `fitted` does not hold a calibrator and thresholds.
    """
    crop = None if isinstance(check.crop, str) else check.crop
    policy, first, even = own, own.thresholds, own.calibrator
    if fitted is not None:
        held = read_policy(own.question, calibrator=fitted.calibrator, thresholds=fitted.thresholds)
        policy = replace(held, prevalence=check.prevalence)  # certified at it: a calibration belongs to one version
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
    """Return what the crop pass of a check needs; None if the check has none.

    It is tested on a plain picture, so that an unsuitable model is found before any image waits for it.

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
        raise ModelInvalid("the crop pass does not answer with the labels of the check")
