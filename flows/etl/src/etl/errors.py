"""What can go wrong in a run, as types: the retry rule and the run's final message are read from them."""


class EtlError(Exception):
    """Any failure that this flow names; its text says what happened and what to do."""


class SourceUnavailable(EtlError):
    """The source did not answer, or answered with something unusable that a later try may not repeat.

    `retry_after`: seconds the source asked us to wait, if it did.
    """

    def __init__(self, reason: str, *, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class SourceRefused(EtlError):
    """The source refused this very request (404, 422, …): trying again cannot help."""


class CircuitOpen(EtlError):
    """The source is given up for now, for all runs: no request was sent, or the one that may try failed."""


class BadData(EtlError):
    """The day's records break the rules so widely that loading them would mislead."""


class RegistrationRefused(EtlError):
    """The registration names something that this image or the Prefect server does not accept."""


class SchemaTooNew(EtlError):
    """A newer image has migrated the warehouse: this one does not know its schema, and must not write into it."""


class ClaimLost(EtlError):
    """A later claim on the run or on its logical date exists: this one may write nothing more."""
