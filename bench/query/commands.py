"""The questions that people ask of a large archive, as command lines."""

from __future__ import annotations

from bench.query.archive import Archive

Command = tuple[str, ...]


def commands(archive: Archive) -> dict[str, Command]:
    """Return the command lines by name. They only read."""
    big, run, small = archive.big, archive.run, archive.small
    ls = ("results", "ls")
    return {
        "scans ls": ("scans", "ls"),
        "scans ls --limit 10000": ("scans", "ls", "--limit", "10000"),
        "scans show big": ("scans", "show", big),
        "scans show run": ("scans", "show", run),
        "scans show small": ("scans", "show", small),
        "scans watch (done)": ("scans", "watch", big),
        "scans errors big": ("scans", "errors", big),
        "scans report big": ("scans", "report", big, "-o", "FOLDER/report.html"),
        "scans report small": ("scans", "report", small, "-o", "FOLDER/small.html"),
        "scans agreement big --labels": ("scans", "agreement", big, "--labels"),
        "results show URI": ("results", "show", archive.uri),
        "results show URI --scan": ("results", "show", archive.uri, "--scan", big),
        "results show (none)": ("results", "show", "s3://ads/2026/none.jpg"),
        "results history URI": ("results", "history", archive.uri),
        "results ls": ls,
        "results ls --scan big": (*ls, "--scan", big),
        "results ls --scan run": (*ls, "--scan", run),
        "results ls --scan small": (*ls, "--scan", small),
        "results ls --state failed": (*ls, "--state", "failed"),
        "results ls --state pending": (*ls, "--state", "pending"),
        "results ls --state cancelled": (*ls, "--state", "cancelled"),
        "results ls --scan run --state pending": (*ls, "--scan", run, "--state", "pending"),
        "results ls --scan big --state failed": (*ls, "--scan", big, "--state", "failed"),
        "results ls --scan big --state cancelled": (*ls, "--scan", big, "--state", "cancelled"),
        "results ls --reason broken": (*ls, "--reason", "broken"),
        "results ls --decision flag": (*ls, "--decision", "flag"),
        "results ls --scan big --decision review": (*ls, "--scan", big, "--decision", "review"),
        "results ls --label overlay": (*ls, "--label", "overlay"),
        "results ls --label nosuch": (*ls, "--label", "nosuch"),
        "results ls --scan big --label nosuch": (*ls, "--scan", big, "--label", "nosuch"),
        "results ls --min-score": (*ls, "--min-score", "0.9994"),
        "results ls --scan big --min-score": (*ls, "--scan", big, "--min-score", "0.9994"),
        "results ls --scan run --min-score": (*ls, "--scan", run, "--min-score", "0.9994"),
        "results ls --sort score": (*ls, "--sort", "score"),
        "results ls --scan big --sort score": (*ls, "--scan", big, "--sort", "score"),
        "results ls --scan big --decision flag --sort score": (
            *ls,
            "--scan",
            big,
            "--decision",
            "flag",
            "--sort",
            "score",
        ),
        "results ls --prefix": (*ls, "--prefix", archive.prefix),
        "results ls --scan big --prefix": (*ls, "--scan", big, "--prefix", archive.prefix),
        "results ls --prefix small": (*ls, "--prefix", "s3://ads/small/"),
        "results ls --check overlay": (*ls, "--check", "overlay"),
        "results ls --scan big --where": (*ls, "--scan", big, "--where", "campaign=c17", "--limit", "20"),
        "results ls --since": (*ls, "--since", "1h"),
        "results facets --scan small": ("results", "facets", "--scan", small, "--by", "decision,label"),
        "results facets --scan big": ("results", "facets", "--scan", big, "--by", "decision,label"),
        "results facets": ("results", "facets", "--by", "scan,decision"),
        "labels ls": ("labels", "ls"),
        "labels conflicts": ("labels", "conflicts", "--check", "overlay"),
        "labels suggest": ("labels", "suggest", "--check", "overlay"),
        "labels suggest --scan big": ("labels", "suggest", "--check", "overlay", "--scan", big),
        "labels suggest --scan small": ("labels", "suggest", "--check", "overlay", "--scan", small),
        "drift": ("drift",),
        "drift --scan big": ("drift", "--scan", big),
        "drift --scan small": ("drift", "--scan", small),
    }


VIEWS = {
    "v_results by uri": "select * from v_results where uri = :uri",
    "v_results by scan": "select * from v_results where scan = :small",
    "v_results of a scan, by page": "select * from v_results where scan = :big order by image_id limit 100",
    "v_verdict_history by uri": "select * from v_verdict_history where uri = :uri",
    "v_failures by scan": "select * from v_failures where scan = :small",
    "v_scans": "select * from v_scans",
    "v_scans by scan": "select * from v_scans where scan = :small",
}
