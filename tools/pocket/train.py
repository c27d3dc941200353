"""Train the pocket model: `python -m tools.pocket.train --work DIR` (base, then one adapter per check).

`--only razor` trains that check's adapter on the shipped base and puts it beside the others, touching nothing else.
Everything is seeded and kept in the work folder; a restart after a kill resumes from the last checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from scanfleet.models.pocket import folder
from scanfleet.models.pocket.questions import QUESTIONS, SMALL
from scanfleet.models.pocket.recipe import load_recipe
from tools.pocket.adapt import adapter_pool, train_adapters
from tools.pocket.base import stage_pool, train_base
from tools.pocket.parallel import run
from tools.pocket.publish import publish, publish_adapter, publish_likeness
from tools.pocket.small import train_small


def base(recipe: dict[str, Any], work: Path) -> None:
    for number in range(len(recipe["base"]["stages"])):
        stage_pool(recipe, work, number, recipe["processes"])
    run(train_base, recipe["processes"], recipe, work)


def adapters(recipe: dict[str, Any], work: Path, checks: list[str]) -> None:
    """Train the adapters side by side, one process each."""
    for check in checks:
        for number in range(len(recipe["adapter"]["pools"])):
            adapter_pool(recipe, work, check, number, recipe["processes"])
    run(train_adapters, len(checks), recipe, work, checks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for image pools and checkpoints (several GB)")
    parser.add_argument("--recipe", type=Path, help="another recipe file than the shipped one")
    parser.add_argument(
        "--only", choices=("base", "adapters", *QUESTIONS, "publish", "likeness"), help="run one part alone"
    )
    parser.add_argument("--out", type=Path, default=folder(), help="where the finished weights go")
    arguments = parser.parse_args()
    recipe, work = load_recipe(arguments.recipe), arguments.work
    work.mkdir(parents=True, exist_ok=True)
    if arguments.only in (None, "base"):
        base(recipe, work)
    checks = [check for check in QUESTIONS if check not in SMALL and arguments.only in (None, "adapters", check)]
    if checks:
        adapters(recipe, work, checks)
    if arguments.only in (None, "adapters"):
        train_small(recipe, work, work / "base")
    if arguments.only in SMALL:
        train_small(recipe, work, folder())
        publish_adapter(recipe, work, arguments.out, arguments.only)
    if arguments.only in (None, "publish"):
        publish(recipe, work, arguments.out)
    if arguments.only == "likeness":
        for check in QUESTIONS:
            publish_likeness(recipe, arguments.out, check)


if __name__ == "__main__":
    main()
