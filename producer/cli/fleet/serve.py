"""`scanfleet serve`: the HTTP API and the pages."""

from __future__ import annotations

import click

from scanfleet.producer.cli.options import Flags, note


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port to listen on.")
@click.option("--local", is_flag=True, help="Start a worker on this machine, too, and print a token for this run.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="With --local: how many.")
@click.option(
    "--proxy", default="127.0.0.1", show_default=True, metavar="HOSTS", help="Whose X-Forwarded headers are believed."
)
@click.pass_obj
def serve(flags: Flags, host: str, port: int, local: bool, workers: int, proxy: str) -> None:
    """Serve the HTTP API and the pages for people (docs/api.md).

    It has no TLS of its own: put a proxy with TLS before it, unless it listens on this machine alone.

    \b
    Example:
      scanfleet serve --local
      scanfleet token create --name ci --scopes read,score
    """
    from scanfleet.serve.process import serve as run

    run(flags.settings(), host=host, port=port, workers=workers if local else 0, proxies=proxy, say=note)
