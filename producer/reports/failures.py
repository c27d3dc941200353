"""Kinds of failures of images, and those that mean quarantine."""

from __future__ import annotations

from collections.abc import Mapping

from scanfleet.errors import UnknownName

STAGES = ("fetch", "decode", "prepare", "score", "process")
REASONS = (
    *("gone", "changed", "denied", "archived", "too_large", "refused", "no_member", "no_host", "private_address"),
    *("empty", "not_an_image", "unsupported", "truncated", "corrupt", "too_many_pixels", "too_slow", "too_much_memory"),
    *("kills_the_decoder", "unsuitable", "kills_the_worker"),
    "too_much_text",  # of earlier versions
    *("no_label", "content_filter"),  # of an endpoint, with "refused" and "too_large"
)
# Reasons of images that ended the process each time they were tried alone.
QUARANTINED = ("kills_the_decoder", "kills_the_worker")

Counts = Mapping[tuple[str, str], int]  # (stage, reason) -> images


def n_quarantined(counts: Counts) -> int:
    return sum(n for (_, reason), n in counts.items() if reason in QUARANTINED)


def counts_text(counts: Counts) -> str:
    """
    >>> counts_text({("fetch", "gone"): 2, ("decode", "empty"): 1})
    'fetch: gone (2), decode: empty (1)'
    """
    return ", ".join(f"{stage}: {reason} ({n})" for (stage, reason), n in counts.items())


def n_chosen(counts: Counts, *, stage: str | None, reason: str | None) -> int:
    """Count the failures that match. Raises UnknownName for a stage or reason that no failure of the scan has.

    Without failures, only unknown stages and reasons are refused.
    """
    for option, word, present, known in (
        ("--stage", stage, {stage for stage, _ in counts}, STAGES),
        ("--reason", reason, {reason for _, reason in counts}, REASONS),
    ):
        if word is None or word in present:
            continue
        if counts:
            raise UnknownName(f"{option} {word}: no such failure; failures: {counts_text(counts)}")
        if word not in known:
            raise UnknownName(f"{option} {word}: there is no such {option[2:]}; known: {', '.join(known)}")
    return sum(n for key, n in counts.items() if stage in (None, key[0]) and reason in (None, key[1]))
