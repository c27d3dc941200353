"""The folder of a tuning: report.json, report.html with the picture inside, front.png, and check.toml of what was
chosen. It appears whole or not at all."""

from __future__ import annotations

import base64
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import tomlkit

from scanfleet.errors import RequestError
from worker.tune.chart import draw

JSON, HTML, PNG, TOML = "report.json", "report.html", "front.png", "check.toml"


def write_report(folder: Path, record: Mapping[str, Any]) -> None:
    """Raises RequestError where it cannot be written."""
    picture = draw(record)
    files = {
        JSON: json.dumps(record, indent=2, ensure_ascii=False).encode() + b"\n",
        HTML: _page(record, picture).encode(),
        PNG: picture,
    }
    if record["tuned"] is not None:
        files[TOML] = tomlkit.dumps(record["tuned"]["check"]).encode()
    try:
        _appear(folder.absolute(), files)
    except OSError as error:
        raise RequestError(f"cannot write {folder}: {error.strerror}") from None


def _appear(folder: Path, files: Mapping[str, bytes]) -> None:
    """Written beside the place, then renamed: an empty folder gives way, one that was filled meanwhile does not."""
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"))
    try:
        for name, body in files.items():
            (part / name).write_bytes(body)
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o777 & ~umask)  # mkdtemp makes it private
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part)
        raise


def _page(record: Mapping[str, Any], picture: bytes) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("worker"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    rows = [("as it stands", record["standing"]), ("larger budget at equal cost", record["larger"])]
    rows += [("chosen" if at == record["chosen"] else "candidate", row) for at, row in enumerate(record["front"])]
    toml = None if record["tuned"] is None else tomlkit.dumps(record["tuned"]["check"])
    return environment.get_template("tune.html.j2").render(
        record=record, rows=rows, picture=base64.b64encode(picture).decode("ascii"), toml=toml
    )
