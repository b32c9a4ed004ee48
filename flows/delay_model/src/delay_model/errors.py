"""Why a training refuses, as types: the run's final message names them, and the orchestrator goes by the name."""

from etl.errors import EtlError


class TooFewDays(EtlError):
    """Fewer days are loaded than a model worth its name needs."""


class StaleDays(EtlError):
    """The newest loaded day is too old: a model would be of a past that is over."""


class ModelUnreadable(EtlError):
    """The stored bytes are no model that this image can read; the text says what is wrong with them."""
