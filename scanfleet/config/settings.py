"""Every setting, with its unit in its name. Order: flag > environment (SCANFLEET_*) > scanfleet.toml > default."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import platformdirs
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from scanfleet.config import endpoints, urls, web_hosts
from scanfleet.config.validation import explain
from scanfleet.config.variables import PREFIX, apply_renames, find_typos
from scanfleet.errors import BadSettings
from scanfleet.redaction import hide

BROKER_SCHEMES = ("filesystem", "redis", "rediss")
MAX_LEASE_SECONDS = 600.0  # a batch is seconds of work; after a set-back of the clock a lease may last this long more
LEAST_TOKEN_BUDGET = 16  # visual tokens: one image of 128 x 128 pixels
POSTGRESQL = "postgresql+psycopg://"
DATABASE_SCHEMES = ("sqlite", "postgresql", "postgres", "postgresql+psycopg")
SCHEMES = {"broker_url": BROKER_SCHEMES, "database_url": DATABASE_SCHEMES, "reader_url": DATABASE_SCHEMES[1:]}


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        toml_file="scanfleet.toml",
        extra="forbid",
        frozen=True,
        validate_default=True,
    )

    # where things are
    data_dir: Path = Field(default_factory=lambda: Path(platformdirs.user_data_dir("scanfleet")))
    database_url: SecretStr | None = None  # default: SQLite in data_dir
    reader_url: SecretStr | None = None  # a login of PostgreSQL that may only read, for `results sql`
    broker_url: SecretStr | None = None  # default: kombu's filesystem transport in data_dir
    broker_ca_file: Path | None = None  # who signed the certificate of a rediss:// server; default: the system's list
    broker_cert_file: Path | None = None  # the client's certificate and its key, where the server asks for one
    broker_key_file: Path | None = None
    database_ca_file: Path | None = None  # encrypts, and checks the server's certificate (sslmode=verify-full)
    s3_endpoint_url: str | None = None  # any S3-compatible server; default: AWS
    s3_client: Literal["obstore", "boto3"] = "obstore"  # what reads objects of S3; boto3 lists and writes either way
    s3_requester_pays: bool = False  # agree to pay for reading buckets whose owner does not
    https_hosts: str = ""  # hosts that https:// images may be read from, separated by commas; *.host: all below it
    https_private_hosts: str = ""  # of them, those that may have private addresses

    # who is told when a scan ends (docs/webhooks.md)
    webhook_secret: SecretStr | None = Field(default=None, min_length=16)  # signs what is sent
    webhook_hosts: str = ""  # hosts that may be told, as https_hosts
    webhook_private_hosts: str = ""  # of them, those that may have private addresses, or be plain http

    # `scanfleet serve` (docs/api.md)
    serve_uploads_url: str | None = None  # folder or s3://bucket/prefix that all workers read; default: below data_dir
    serve_sources: str = ""  # folders and s3://bucket/prefixes that requests may name, separated by commas
    serve_keep_hours: float = Field(default=24.0, gt=0)  # uploads and their answers
    serve_wait_seconds: float = Field(default=30.0, gt=0, le=600)  # for a verdict, before 202 is answered
    serve_requests_per_minute: int = Field(default=600, ge=1)  # of one token
    serve_session_hours: float = Field(default=12.0, gt=0)  # a browser logs in again after this

    # what scores
    model: str = "pocket"  # a built-in name, a hub id or a folder
    model_revision: str | None = None  # hub commit
    precision: Literal["auto", "fp32", "bf16", "nf4", "int8"] = "auto"  # auto: bf16 on CUDA, else fp32
    device: str = "auto"  # auto | cpu | cuda | cuda:N
    token_budget: int | Literal["auto"] = "auto"  # noqa: S105 - visual tokens in one forward; auto: a probe finds it

    # a server that scores (model = "endpoint:NAME", docs/endpoint.md)
    endpoint_url: str | None = None  # of an OpenAI-compatible API: https://HOST/v1
    endpoint_key: SecretStr | None = None
    endpoint_ca_file: Path | None = None  # who signed the server's certificate; default: the system's list
    endpoint_concurrency: int = Field(default=8, ge=1, le=256)  # requests at once
    endpoint_requests_per_minute: float | None = Field(default=None, ge=1)  # of this worker; default: no limit
    endpoint_timeout_seconds: float = Field(default=30.0, gt=0)  # of one request, from its first byte to its last
    endpoint_patience_seconds: float = Field(default=60.0, gt=0)  # for one image, waits and further tries included
    endpoint_top_logprobs: int = Field(default=20, ge=2, le=20)  # tokens to be listed; servers may allow fewer
    endpoint_image_format: Literal["png", "jpeg"] = "png"  # jpeg: fewer bytes, and slightly other scores
    endpoint_image_grid: int = Field(default=32, ge=1, le=512)  # pixels; sides are multiples of it: 28 for Qwen2.5-VL

    # batches and leases
    batch_images: int = Field(default=64, ge=1, le=4096)
    lease_seconds: float = Field(default=60.0, gt=0, le=MAX_LEASE_SECONDS)
    reconcile_seconds: float = Field(default=2.0, gt=0)
    renotify_seconds: float = Field(default=30.0, gt=0)  # re-notify workers about a ready batch after this long
    max_outstanding_notifications: int = Field(default=2000, ge=1)
    drain_seconds: float = Field(default=15.0, ge=0)  # SIGTERM: finish or hand back, and end, within this

    # the stages of a worker
    batches_in_flight: int = Field(default=3, ge=1, le=64)
    fetch_threads: int = Field(default=8, ge=1, le=256)
    fetch_timeout_seconds: float = Field(default=30.0, gt=0)  # of silence
    fetch_deadline_seconds: float = Field(default=120.0, gt=0)  # for one object, however slowly it arrives
    device_timeout_seconds: float = Field(default=300.0, gt=0)  # a longer forward counts as a hung device
    batch_stall_seconds: float = Field(default=120.0, gt=0)  # a batch without progress is handed back
    worker_stall_seconds: float = Field(default=120.0, gt=0)  # a worker without progress ends itself
    max_image_bytes: int = Field(default=50_000_000, ge=1)
    max_image_pixels: int = Field(default=50_000_000, ge=1)
    decode_cpu_seconds: float = Field(default=20.0, gt=0)  # CPU time of one image, not wall-clock time
    stretch_samples: bool = True  # 16-bit samples that hold 8, 10, 12 or 14 bits, as X-ray exports do

    # training of adapters
    adapters_url: str | None = None  # folder or s3://bucket/prefix that all workers reach; default: below data_dir
    train_after_labels: int = Field(default=100, ge=1)  # new audited labels of a check that start a training
    train_every_hours: float | None = Field(default=None, gt=0)  # with any new label at all; default: never
    train_on_drift: bool = True  # a drift alarm, with any new label at all, starts one
    train_recipe: str = "auto"  # a recipe's name; auto: the one that suits the base model
    train_check_seconds: float = Field(default=30.0, gt=0)  # between two checks for reasons to train
    train_lease_seconds: float = Field(default=60.0, gt=0, le=MAX_LEASE_SECONDS)
    train_synthetic_share: float = Field(
        default=0.3, ge=0, lt=1
    )  # most generated images of what a training learns from
    train_shadow_images: int = Field(default=300, ge=0)  # unlabelled images that the gate compares both adapters on

    # operating (docs/operate.md)
    metrics_port: int | None = Field(default=None, ge=0, le=65535)  # of a worker's own process metrics; default: none
    metrics_host: str = "127.0.0.1"  # address that they are served on; 0.0.0.0: all
    price_per_hour: float | None = Field(default=None, ge=0)  # of one device with its host, in your currency

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_json: bool = False

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("token_budget", mode="before")
    @classmethod
    def _budget(cls, value: object) -> object:
        text = value.strip().lower() if isinstance(value, str) else value
        if text == "auto":
            return text
        try:
            tokens = int(text) if isinstance(text, str | int) and not isinstance(text, bool) else 0
        except ValueError:
            tokens = 0
        if tokens < LEAST_TOKEN_BUDGET:
            raise ValueError(f"must be auto, or a whole number of visual tokens of at least {LEAST_TOKEN_BUDGET}")
        return tokens

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("broker_url", "database_url", "reader_url")
    @classmethod
    def _known_scheme(cls, value: SecretStr | None, info: Any) -> SecretStr | None:
        if value is None:
            return None
        allowed = SCHEMES[info.field_name]
        scheme = urlsplit(value.get_secret_value()).scheme
        if scheme not in allowed:
            raise ValueError(f"scheme {scheme!r} is not one of {', '.join(allowed)}")
        urls.check_url(value.get_secret_value(), scheme=scheme)
        return value

    @field_validator("https_hosts", "https_private_hosts", "webhook_hosts", "webhook_private_hosts")
    @classmethod
    def _hosts(cls, value: str) -> str:
        web_hosts.hosts_of(value)
        return value

    @field_validator("endpoint_url")
    @classmethod
    def _endpoint(cls, value: str | None) -> str | None:
        return None if value is None else endpoints.check_url(value)

    @field_validator("endpoint_key")
    @classmethod
    def _fits_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            endpoints.check_key(value.get_secret_value())
        return value

    @field_validator("broker_ca_file", "broker_cert_file", "broker_key_file", "database_ca_file", "endpoint_ca_file")
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        return None if value is None else urls.readable(value.expanduser().absolute())

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.broker_cert_file is None) != (self.broker_key_file is None):
            raise ValueError("broker_cert_file and broker_key_file belong together: give both or none")
        _ = self.database, self.reader  # raises for options that contradict each other
        return self

    @cached_property
    def database(self) -> str:
        """The SQLAlchemy URL, password included: never log it."""
        if self.database_url is None:
            return f"sqlite:///{self.data_dir / 'scanfleet.db'}"
        return self._as_sqlalchemy(self.database_url)

    @cached_property
    def reader(self) -> str | None:
        """The SQLAlchemy URL of `reader_url`, password included: never log it."""
        return None if self.reader_url is None else self._as_sqlalchemy(self.reader_url)

    def _as_sqlalchemy(self, given: SecretStr) -> str:
        url = given.get_secret_value()
        for other in ("postgresql://", "postgres://"):  # the second one as libpq and many hosts write it
            if url.startswith(other):
                url = POSTGRESQL + url.removeprefix(other)
        return urls.verified(url, self.database_ca_file) if self.database_ca_file else url

    @cached_property
    def broker(self) -> str:
        """The Celery broker URL, password included: never log it."""
        return self.broker_url.get_secret_value() if self.broker_url else "filesystem://localhost"

    def make_folder(self, *parts: str) -> Path:
        """Return a folder below data_dir, and create it if it is missing. Raises BadSettings if it cannot.

        A data_dir that it creates is for its owner alone; one that exists stays as it is.
        """
        folder = self.data_dir.joinpath(*parts)
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise BadSettings(f"data_dir: cannot make the folder {folder} ({reason}): name another one") from None
        return folder

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _File(settings_cls)


class _File(TomlConfigSettingsSource):
    def __call__(self) -> dict[str, Any]:
        values = dict(super().__call__())
        apply_renames(values)
        return values


def load_settings(**flags: Any) -> Settings:
    """Read the settings; flags that are None count as not given.

    Raises BadSettings with one line that names each wrong setting but not its value, which may be a secret.
    """
    apply_renames(os.environ, prefix=PREFIX)
    problems = find_typos(os.environ, Settings.model_fields)
    try:
        settings = Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        problems += [
            f"{'.'.join(map(str, problem['loc']))}: {explain(problem, known=Settings.model_fields)}"
            for problem in error.errors(include_input=False, include_url=False)
        ]
    except ValueError as error:  # tomllib: a scanfleet.toml that is not TOML
        raise BadSettings(f"scanfleet.toml: {error}") from None
    if problems:
        raise BadSettings(f"settings: {'; '.join(problems)} (flag, SCANFLEET_* variable or scanfleet.toml)")
    for url in (settings.broker_url, settings.database_url, settings.reader_url):
        hide(None if url is None else urls.password_of(url.get_secret_value()))
    for secret in (settings.endpoint_key, settings.webhook_secret):
        hide(None if secret is None else secret.get_secret_value())
    return settings
