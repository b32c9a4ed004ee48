"""The environment: every `ORCHESTRATOR_` variable, what it may be, and what to say when it is wrong."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "ORCHESTRATOR_"
OTLP_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"

HINTS = {
    "database_url": "the PostgreSQL URL of the orchestrator's own database, postgresql://user:password@host:5432/name",
    "prefect_api_url": "the Prefect server's API URL, such as http://prefect-server:4200/api",
    "prefect_auth_string": "the server's basic auth string, user:password (leave it out where the server has none)",
    "prefect_ui_url": "where a browser finds Prefect's page, such as http://localhost:4200 (unset: no link is shown)",
    "pipelines": 'a JSON list such as [{"name": "etl", "deployment": "daily_job/daily-0900"}]',
    "host": "the address to listen on, such as 0.0.0.0",
    "port": "the port to listen on, 1 to 65535",
    "log_level": "one of debug, info, warning, error",
    "poll_seconds": "the seconds between two looks at Prefect, 0.1 to 60",
    "otlp_endpoint": "the base URL of an OTLP/HTTP collector, such as http://otel-collector:4318",
    "kubernetes_namespace": "the namespace of the flow runs' Jobs (leave it out where there is no Kubernetes)",
    "worker_query_seconds": "the seconds between two polls of a worker, above 0 and up to 60",
    "cancel_grace_seconds": "the seconds a cancelled run that never started is given to end by itself, 0 to 300",
    "auth": "who may call: none (whoever can reach the port), apiKey or kubernetes",
    "api_keys_file": "the file of the API keys, where ORCHESTRATOR_AUTH is apiKey, such as /etc/orchestrator/keys.json",
    "token_audience": "the audience of the tokens, where ORCHESTRATOR_AUTH is kubernetes; unset: the cluster's own",
    "metrics_open": "true where /metrics needs no credential, else false",
    "reads_per_second": "how often each caller may read in a second, 1 to 100000; four seconds' worth at once",
    "writes_per_second": "how often each caller may start, cancel or fill back in a second, 1 to 100000",
    "refusals_per_second": "how often one address may come without a good credential in a second, 1 to 100000",
    "streams": "how many event streams may be open at once, 1 to 10000",
    "streams_per_caller": "how many event streams each caller may hold open, 1 to 10000",
    "body_seconds": "the seconds a request's body may take to arrive, 0.1 to 60",
    "cancel_deadline_seconds": "the seconds a cancelled run's own process is given to end by itself, 0 to 3600",
}


Often = Annotated[float, Field(ge=1, le=100_000)]


class Missed(StrEnum):
    """What becomes of the schedule's runs that nothing could start when they were due."""

    RUN_ALL = "run_all"
    LATEST = "latest"
    SKIP = "skip"


class Pipeline(BaseModel):
    """A short name the API uses for one Prefect deployment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    deployment: Annotated[str, Field(pattern=r"^[^/\s][^/]*/[^/]*[^/\s]$")]
    # how often a run whose process was lost is executed in all
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    # how long a run may wait for its start once it could be started; None: for ever
    start_deadline_seconds: Annotated[float, Field(ge=1)] | None = 3600.0
    # how long a run may be Running; None: for ever
    run_deadline_seconds: Annotated[float, Field(ge=1)] | None = None
    # what becomes of the schedule's runs that nothing could start when they were due
    missed_schedules: Missed = Missed.RUN_ALL
    # how late such a run is before it counts as missed
    missed_after_seconds: Annotated[float, Field(ge=1)] = 600.0

    @property
    def flow(self) -> str:
        """The flow's name: Prefect names a deployment `flow/deployment`."""
        return self.deployment.split("/")[0]


class DatabaseSettings(BaseSettings):
    """What `migrate` and `check-schema` need: the database alone."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True
    )

    database_url: SecretStr
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, value: SecretStr) -> SecretStr:
        try:
            url = urlsplit(value.get_secret_value())
            port = url.port
        except ValueError:
            port = -1
        if port == -1:
            raise ValueError("it cannot be read; write / @ : # in the password as %2F %40 %3A %23")
        if url.scheme not in {"postgresql", "postgres"}:
            raise ValueError("it does not start with postgresql://")
        if not url.path.strip("/"):
            raise ValueError("it names no database")
        return value


class Settings(DatabaseSettings):
    """What `serve` needs. Frozen; built once, in `orchestrator.__main__`."""

    prefect_api_url: str
    prefect_auth_string: SecretStr | None = None
    prefect_ui_url: str | None = None
    pipelines: Annotated[tuple[Pipeline, ...], NoDecode, Field(min_length=1)]
    host: str = "0.0.0.0"  # noqa: S104 -- in a pod, the network policy and the Service decide who gets here
    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    poll_seconds: Annotated[float, Field(ge=0.1, le=60)] = 2.0
    kubernetes_namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")] | None = None
    worker_query_seconds: Annotated[float, Field(gt=0, le=60)] = 10.0
    cancel_grace_seconds: Annotated[float, Field(ge=0, le=300)] = 10.0
    auth: Literal["none", "apiKey", "kubernetes"] = "none"
    api_keys_file: Annotated[Path | None, Field(validate_default=True)] = None
    token_audience: str | None = None
    metrics_open: bool = True
    reads_per_second: Often = 100.0
    writes_per_second: Often = 50.0
    refusals_per_second: Often = 10.0
    streams: Annotated[int, Field(ge=1, le=10_000)] = 200
    streams_per_caller: Annotated[int, Field(ge=1, le=10_000)] = 50
    body_seconds: Annotated[float, Field(ge=0.1, le=60)] = 10.0
    cancel_deadline_seconds: Annotated[float, Field(ge=0, le=3600)] = 60.0
    # under OpenTelemetry's own name, as its other variables (headers, certificates, resource) are read by it
    otlp_endpoint: Annotated[str | None, Field(validation_alias=OTLP_ENDPOINT)] = None

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_a_collector(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("it is not an http:// or https:// URL")
        return value

    @field_validator("prefect_api_url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        url = urlsplit(value)
        if url.scheme not in {"http", "https"} or not url.hostname:
            raise ValueError("it is not an http:// or https:// URL")
        if url.username or url.password:
            raise ValueError(f"it carries credentials; put them into {PREFIX}PREFECT_AUTH_STRING")
        return value.rstrip("/")

    @field_validator("prefect_ui_url")
    @classmethod
    def _is_for_browsers(cls, value: str | None) -> str | None:
        if value is None:
            return None
        url = urlsplit(value)
        if url.scheme not in {"http", "https"} or not url.hostname or url.username or url.password:
            raise ValueError("it is not an http:// or https:// URL without credentials")
        return value.rstrip("/")

    @field_validator("prefect_auth_string")
    @classmethod
    def _is_a_pair(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and ":" not in value.get_secret_value():
            raise ValueError("it has no colon between user and password")
        return value

    @field_validator("api_keys_file")
    @classmethod
    def _is_there_for_keys(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if info.data.get("auth") == "apiKey" and value is None:
            raise ValueError(f"it is not set, and {PREFIX}AUTH is apiKey")
        return value

    @field_validator("pipelines", mode="before")
    @classmethod
    def _is_json(cls, value: Any) -> Any:
        if isinstance(value, str):
            try:
                return json.loads(value)
            except ValueError as exc:
                raise ValueError("it is not JSON") from exc
        return value

    @field_validator("pipelines")
    @classmethod
    def _are_distinct(cls, value: tuple[Pipeline, ...]) -> tuple[Pipeline, ...]:
        if len({one.name for one in value}) < len(value):
            raise ValueError("two pipelines have one name")
        if len({one.deployment for one in value}) < len(value):
            raise ValueError("two pipelines have one deployment: nobody could say whose its scheduled runs are")
        return value


def complaints(error: ValidationError) -> list[str]:
    """One line for each variable that is missing or wrong: what to put there, and never what is there."""
    lines: dict[str, str] = {}
    for problem in error.errors(include_input=False, include_context=False, include_url=False):
        named = str(problem["loc"][0])
        field = "otlp_endpoint" if named == OTLP_ENDPOINT else named
        variable = OTLP_ENDPOINT if field == "otlp_endpoint" else f"{PREFIX}{field.upper()}"
        within = "".join(f"[{part!r}]" for part in problem["loc"][1:])
        if problem["type"] == "missing" and not within:
            what = "is missing"
        else:
            what = f"is wrong{' at ' + within if within else ''}: {problem['msg'].removeprefix('Value error, ')}"
        lines.setdefault(field, f"{variable} {what}; set it to {HINTS[field]}")
    return list(lines.values())
