"""`scanfleet metrics`: the ledger for Prometheus."""

from __future__ import annotations

import importlib.util

import click

from scanfleet.producer.cli.options import Flags, note

PORT = 9464


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0: all.")
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0: any free one.")
@click.option("--minutes", type=click.FloatRange(min=1), default=30.0, show_default=True, help="For workers_wanted.")
@click.option("--model", "models", multiple=True, metavar="MODEL", help="Has workers_wanted before its first scan.")
@click.option("--once", is_flag=True, help="Print them once, and end.")
@click.pass_obj
def metrics(flags: Flags, host: str, port: int, minutes: float, models: tuple[str, ...], once: bool) -> None:
    """Serve metrics of the whole fleet to Prometheus, from the ledger. Needs the extra `metrics` (docs/install.md).

    One such process is enough for a fleet. It reads only, at most every 5 s. The numbers survive every worker.

    \b
    Example:
      scanfleet metrics --host 0.0.0.0
      scanfleet metrics --once | grep workers_wanted
    """
    from scanfleet.config.extras import install_hint
    from scanfleet.errors import BadSettings, MissingExtra

    if importlib.util.find_spec("prometheus_client") is None:
        raise MissingExtra(f"this command needs the metrics extra, which is not installed: {install_hint('metrics')}")
    from prometheus_client import CollectorRegistry, generate_latest, start_http_server

    from scanfleet.producer.fleet.metrics import Ledger

    with flags.ledger() as engine:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Ledger(engine, minutes=minutes, models=models))
        if once:
            click.echo(generate_latest(registry).decode(), nl=False)
            return
        try:
            server, thread = start_http_server(port, addr=host, registry=registry)
        except OSError as error:
            raise BadSettings(f"metrics: cannot listen on {host}:{port} ({error.strerror}): try --port") from None
        note(f"metrics at http://{host}:{server.server_port}/metrics")
        try:
            thread.join()
        finally:
            server.shutdown()
