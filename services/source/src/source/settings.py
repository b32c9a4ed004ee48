"""What the environment decides: where to listen and how much to log."""

from typing import Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "SOURCE_"


class SettingsError(Exception):
    """Settings this process cannot start with; the text is one line that names the variable and what to put there."""


class Settings(BaseSettings):
    """The environment variables SOURCE_HOST, SOURCE_PORT and SOURCE_LOG_LEVEL."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    host: str = Field("0.0.0.0", min_length=1, description="an address to listen on, such as 0.0.0.0 or 127.0.0.1")  # noqa: S104 - a server in a container
    port: int = Field(8090, ge=1, le=65535, description="a free TCP port, from 1 to 65535")
    log_level: Literal["debug", "info", "warning", "error", "critical"] = Field(
        "info", description="debug, info, warning, error or critical"
    )

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value


def load() -> Settings:
    """The settings of this process; raises SettingsError."""
    try:
        return Settings()
    except ValidationError as exc:
        names = dict.fromkeys(str(error["loc"][0]) for error in exc.errors())
        given = {str(error["loc"][0]): error["input"] for error in exc.errors()}
        raise SettingsError("; ".join(wrong(name, f"{given[name]!r}") for name in names)) from exc


def wrong(name: str, found: str) -> str:
    """One line about a setting: the variable, what to put there, and what was found instead."""
    return f"set {PREFIX}{name.upper()} to {Settings.model_fields[name].description} (it is {found})"
