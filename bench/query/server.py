"""A PostgreSQL server with the memory of a small production one, which counts the time of statements."""

from __future__ import annotations

import re
from typing import Any

from tests.services.postgres import PostgresServer

SETTINGS = {
    "shared_buffers": "1GB",
    "effective_cache_size": "4GB",
    "random_page_cost": "1.1",
    "max_wal_size": "4GB",
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track_planning": "on",
    "log_statement_stats": "on",
    "pg_stat_statements.track_utility": "off",
}


CPU = re.compile(r"^\s*!\s+([\d.]+) s user, ([\d.]+) s system, [\d.]+ s elapsed", re.MULTILINE)


class MeasuredServer(PostgresServer):
    """Beside SETTINGS, those of PostgreSQL as it comes."""

    def command(self) -> list[str]:
        return [*super().command(), *(part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}"))]

    def measured_database(self) -> str:
        url = self.fresh_database()
        with self.connect(url.rpartition("/")[2]) as connection:
            connection.execute("create extension pg_stat_statements")
        return url

    def reset(self, url: str) -> None:
        self._ask(url, "select pg_stat_statements_reset()")
        self._seen = (self.directory / "server.log").stat().st_size

    def cpu_ms(self) -> float:
        """Return the processor's time of all statements since `reset`, those of parallel workers left out."""
        with (self.directory / "server.log").open(errors="replace") as log:
            log.seek(self._seen)
            used = CPU.findall(log.read())
        return 1000 * sum(float(user) + float(system) for user, system in used)

    def statements(self, url: str) -> list[tuple[float, int, str]]:
        """Return (milliseconds, calls, text) of the statements since `reset`, the dearest first."""
        return self._ask(
            url,
            "select total_exec_time + total_plan_time, calls, query from pg_stat_statements s join pg_database d"
            " on d.oid = s.dbid where d.datname = current_database() and query not like '%pg_stat_statements%'"
            " order by 1 desc",
        )

    def _ask(self, url: str, query: Any) -> list[Any]:
        with self.connect(url.rpartition("/")[2]) as connection:
            return connection.execute(query).fetchall()
