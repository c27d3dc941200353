"""Names of manifest columns: what every warehouse takes, the same for the same fields."""

import re

from hypothesis import given
from hypothesis import strategies as st

from scanfleet.producer.reports.exports.columns import COLUMNS
from scanfleet.producer.reports.exports.names import column_names


@given(st.sets(st.text(max_size=200), max_size=12))
def test_every_field_has_a_column_of_its_own(fields: set[str]) -> None:
    found = column_names(fields, COLUMNS)
    assert set(found) == fields
    assert all(re.fullmatch(r"meta_[A-Za-z0-9_]{0,122}", name) for name in found.values())
    assert len({name.lower() for name in found.values()} | set(COLUMNS)) == len(fields) + len(COLUMNS)
    assert column_names(sorted(fields, reverse=True), COLUMNS) == found


def test_a_plain_name_is_kept_and_of_two_alike_the_second_is_numbered() -> None:
    assert column_names(["a_b", "a b", "A_B", "é"], ()) == {
        "a b": "meta_a_b_2", "A_B": "meta_A_B", "a_b": "meta_a_b_3", "é": "meta__"
    }  # fmt: skip
    assert column_names(["a.b"], (), dotted=True) == {"a.b": "meta.a.b"}
