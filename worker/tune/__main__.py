"""`python -m worker.tune`: the computing half of `scanfleet tune`. Speaks JSON, one object a line, on both sides.

In, first line: what `Asked` holds. Each further line is a labelled image: {"content_sha256", "uri", "root", "label",
"cluster", "width", "height"}. Out: {"kind": "progress", "done", "total", "seconds_left", "what"} while it goes on,
{"kind": "report", "record"} at the end, and {"kind": "fault", "words", "exit_code"} when it ends before its time.
SIGINT ends the search; what it has found by then is judged and reported. Nothing is written to a ledger.
"""

from __future__ import annotations

from worker.answering import answer
from worker.tune.serve import serve

if __name__ == "__main__":
    answer(serve)
