"""A Redis user with the rights that docs/security.md names is enough for a fleet, and ends where they end."""

import re
from pathlib import Path

import pytest
import redis

from scanfleet.config.diagnosis import check_broker
from scanfleet.config.settings import load_settings
from scanfleet.errors import BadSettings
from scanfleet.queue.app import make_app
from tests.rigs.worker_fleet import fleet
from tests.services import RedisServer

DOCS = Path(__file__).parents[3] / "docs" / "security.md"
PING_SECONDS = 10.0


@pytest.mark.slow
def test_a_fleet_works_as_a_user_of_few_rights(tmp_path: Path) -> None:
    (rights,) = re.findall(r"`(~scanfleet:[^`]*)`", DOCS.read_text(encoding="utf-8"))
    with RedisServer(password="administrator") as server:
        with server.client() as owner:
            owner.execute_command("ACL", "SETUSER", "fleet", "reset", "on", ">of-the-fleet", *rights.split())
        url = f"redis://fleet:of-the-fleet@127.0.0.1:{server.port}/0"
        with fleet(tmp_path, broker_url=url) as here:
            here.start()
            scan = here.scan(8)
            here.until_done(scan)
            with make_app(here.settings) as app:
                assert app.control.ping(timeout=PING_SECONDS, limit=1)  # what the container's health check asks
        with redis.Redis.from_url(url) as user:
            for command in (("FLUSHALL",), ("CONFIG", "GET", "*"), ("GET", "another:key")):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    user.execute_command(*command)
        wrong = load_settings(data_dir=tmp_path, broker_url=url.replace("of-the-fleet", "not-this-one"))
        with make_app(wrong) as app, pytest.raises(BadSettings, match="set the right password"):
            check_broker(app)
