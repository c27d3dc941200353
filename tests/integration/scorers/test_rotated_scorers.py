"""A base alone that reads its menu in several orders is another scorer than before; adapters are the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scanfleet.db.engine import reading
from scanfleet.db.results.calibrations import hash_for
from scanfleet.db.results.results import known_identities
from scanfleet.db.results.scorers import IMAGE_FIRST, ROTATED
from tests.integration.scorers.test_drift import rig_at
from tests.rigs.ledger_rig import scorer_spec
from tests.rigs.verdict_rig import VerdictRig


@pytest.fixture
def rig(database_url: str) -> Iterator[VerdictRig]:
    yield from rig_at(database_url)


def test_a_rotated_menu_is_in_the_key_and_all_others_are_the_ones_before() -> None:
    before = {"base_model": "pocket", "base_revision": "sha256:1", "adapter_id": 7}
    adapter = scorer_spec(3, **before, mode="lora")
    assert adapter.key == scorer_spec(3, **before, mode=None).key
    in_order, turned = (
        scorer_spec(3, **before | {"adapter_id": None}, mode=f"zero-shot{end}") for end in ("", ROTATED)
    )
    assert in_order.key == scorer_spec(3, **before | {"adapter_id": None}).key
    assert turned.key != in_order.key


@pytest.mark.parametrize(
    ("base_model", "mode", "known"),
    [
        ("a/model", "zero-shot", False),  # by a worker before, in the menu's own order
        ("a/model", "zero-shot steps", False),
        ("a/model", f"zero-shot{ROTATED}", True),
        ("a/model", "lora", True),
        ("a/model", None, True),
        ("endpoint:a/model", "zero-shot", False),  # with the instruction first
        ("endpoint:a/model", f"zero-shot{IMAGE_FIRST}", True),
        ("fake", "zero-shot", True),
    ],
)
def test_answers_in_the_own_order_do_not_count_as_known(
    rig: VerdictRig, base_model: str, mode: str | None, known: bool
) -> None:
    scorer = rig.scorer(base_model=base_model, mode=mode)
    identities = rig.verdicts(rig.scan("first"), scorer, [0.5, -0.5])
    with reading(rig.engine) as connection:
        found = known_identities(connection, check_hash=rig.check.hash, model="fake", identities=identities)
    assert found == (set(identities) if known else set())


def test_a_calibrator_of_the_own_order_is_not_used_for_the_turned_menu() -> None:
    assert hash_for("ab", asked="") == "ab"
    assert hash_for("ab", asked=ROTATED) != "ab"
