"""What a run is told by its environment: where the source and the warehouse are, and the limits it keeps."""

import sys
from typing import NoReturn

from pydantic import Field, HttpUrl, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "ETL_"


class WarehouseSettings(BaseSettings):
    """Where the warehouse is. Environment variables carry the prefix ETL_."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    warehouse_url: SecretStr = Field(
        description="the warehouse, such as postgresql://user:password@host:5432/warehouse"
    )

    @field_validator("warehouse_url")
    @classmethod
    def _is_postgresql(cls, url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("it must start with postgresql://")
        return url


class EtlSettings(WarehouseSettings):
    """Everything a run needs to know."""

    source_url: HttpUrl = Field(description="the upstream API's base URL, such as http://source:8090")
    request_timeout_seconds: float = Field(
        default=30.0, gt=0, description="the longest silence accepted from the source, in seconds"
    )
    retry_backoff_seconds: float = Field(
        default=2.0,
        gt=0,
        description="the pause before the first retry of an extract, in seconds; it doubles each time",
    )
    breaker_failures: int = Field(
        default=3, ge=1, description="how many runs in a row must fail at the source before it is given up"
    )
    breaker_window_seconds: float = Field(
        default=3600.0, gt=0, description="the time within which those failures must fall, in seconds"
    )
    breaker_open_seconds: float = Field(
        default=300.0, gt=0, description="how long a source that was given up is left alone, in seconds"
    )
    catch_up_runs: int = Field(
        default=50,
        ge=0,
        description="how many degraded days a successful run has loaded again at most, a flow run each; 0: none",
    )
    probe_longest_pause_seconds: float = Field(
        default=14400.0,
        ge=0,
        description="the longest pause, in seconds, before a run is made to try a source that was given up; 0: none is",
    )
    warehouse_wait_seconds: float = Field(
        default=60.0, ge=0, description="how long a run outlasts a warehouse that went away, in seconds; 0: not at all"
    )
    max_rejected_ratio: float = Field(
        default=0.05, ge=0, le=1, description="the share of bad rows above which a run fails, 0 to 1"
    )


def explain(error: ValidationError, settings: type[BaseSettings]) -> str:
    """One line that names each variable at fault and what belongs there; never a value, which may be a secret."""
    problems = []
    for problem in error.errors(include_url=False, include_input=False):
        field = str(problem["loc"][0])
        wanted = settings.model_fields[field].description or field
        fault = "is not set" if problem["type"] == "missing" else f"is wrong ({problem['msg']})"
        problems.append(f"{PREFIX}{field.upper()} {fault}: set it to {wanted}")
    return "; ".join(problems)


def stop_on(error: ValidationError, settings: type[BaseSettings]) -> NoReturn:
    """End the process with status 2 and one line about the settings that are missing or wrong."""
    sys.stderr.write(explain(error, settings) + "\n")
    raise SystemExit(2)
