"""The shipped adapters pass their canaries in every precision that a worker may run them in."""

from typing import get_args

import pytest

from scanfleet.models import factory, pocket
from scanfleet.models.adapters.canary import TOLERANCE, try_canary
from scanfleet.models.adapters.card import read_card
from scanfleet.models.network.base import Precision, load_base
from scanfleet.models.pocket.questions import QUESTIONS


@pytest.mark.parametrize("precision", get_args(Precision))
def test_the_shipped_canaries_sing_in_every_precision(precision: Precision) -> None:
    base = load_base("pocket", precision=precision, device="cpu")
    for check, question in QUESTIONS.items():
        folder = pocket.adapter_folder(check)
        canary = read_card(folder).canary
        assert canary is not None
        found = try_canary(
            canary, folder, adapter=factory.scorer(base, question, folder), base=factory.scorer(base, question)
        )
        assert found.problem() is None
        assert (found.n, found.against) == (16, "fp32")
        assert (found.max_shift < 1e-3) is (precision == "fp32")  # the others round, and it shows
        assert found.max_shift < TOLERANCE[precision] / 2  # and leave room for other machines
