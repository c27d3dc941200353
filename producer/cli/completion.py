"""Shell completion, and the command `scanfleet completion` that turns it on."""

from __future__ import annotations

import os
from pathlib import PurePath

import click
from click.shell_completion import shell_complete

from scanfleet.producer.cli.options import note

VARIABLE = "_SCANFLEET_COMPLETE"
TURN_ON = {
    "bash": ("~/.bashrc", f'eval "$({VARIABLE}=bash_source scanfleet)"'),
    "zsh": ("~/.zshrc", f'eval "$({VARIABLE}=zsh_source scanfleet)"'),
    "fish": ("~/.config/fish/completions/scanfleet.fish", f"{VARIABLE}=fish_source scanfleet | source"),
}


@click.command()
@click.argument("shell", required=False, type=click.Choice(list(TURN_ON)))
def completion(shell: str | None) -> None:
    """Print the line that turns on shell completion.

    Put it at the end of the file named on stderr (in zsh, after compinit) and open a new shell. Default: the shell of
    $SHELL.

    \b
    Example:
      scanfleet completion bash >> ~/.bashrc
    """
    name = shell or PurePath(os.environ.get("SHELL", "")).name
    if name not in TURN_ON:
        raise click.UsageError(f"$SHELL is none of {', '.join(TURN_ON)}: name the shell (`scanfleet completion bash`)")
    file, line = TURN_ON[name]
    click.echo(line)
    note(f"put this line at the end of {file} and open a new shell")


def complete(cli: click.Command) -> int | None:
    """Answer the shell if it asks for completion and return the exit code; else return None."""
    instruction = os.environ.get(VARIABLE)
    return shell_complete(cli, {}, "scanfleet", VARIABLE, instruction) if instruction else None
