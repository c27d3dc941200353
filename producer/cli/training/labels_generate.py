"""`scanfleet labels generate`: pictures for training, with their labels."""

from __future__ import annotations

from pathlib import Path

import click

from scanfleet.producer.cli.options import Flags, note
from scanfleet.producer.cli.tables import count


@click.command("generate")
@click.option("--check", "check_name", required=True, metavar="NAME", help="A check's name or .toml file.")
@click.option("--n", type=click.IntRange(min=1), required=True, help="Number of pictures to draw.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New folder for them.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the pictures.")
@click.option("--scenes", metavar="NAME", help="Whose pictures: overlay, baggage or razor. Default: the check's name.")
@click.pass_obj
def generate_labels(flags: Flags, /, *, check_name: str, n: int, out: Path, seed: int, scenes: str | None) -> None:
    """Draw pictures, and label them for training.

    Their labels have the origin "synthetic". They lie in the train split, never in calibration, threshold or golden,
    and are at most `train_synthetic_share` of what a training learns from. A picture of which the champion is
    confident that it shows the opposite is left out, and so is one that looks like an image of another split. They
    start no training by themselves. Training workers must reach the folder.

    \b
    Example:
      scanfleet labels generate --check overlay --n 200 --out generated/
    """
    from scanfleet.producer.local.generating import generate_labels as generate

    settings = flags.settings()
    with flags.ledger() as engine:
        done = generate(engine, settings, check_name=check_name, scenes=scenes, n=n, seed=seed, out=out)
    note(f"{count(done.n_labels, 'label')} of generated pictures added to check {check_name}, split train")
    if done.unfiltered is not None:
        note(f"the pictures were not filtered: {done.unfiltered}")
    for left_out, words in (
        (done.n_contradicted, "left out: the champion is confident of the opposite"),
        (done.n_elsewhere, "left out: they look like images of another split"),
    ):
        if left_out:
            note(f"{count(left_out, 'picture')} {words}")
