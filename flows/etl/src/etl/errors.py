"""What can go wrong in a run, as types: the retry rule and the run's final message are read from them."""


class EtlError(Exception):
    """Any failure that this flow names; its text says what happened and what to do."""


class SourceUnavailable(EtlError):
    """The source did not answer, or answered with something unusable that a later try may not repeat."""


class SourceRefused(EtlError):
    """The source refused this very request (404, 422, …): trying again cannot help."""


class BadData(EtlError):
    """The day's records break the rules so widely that loading them would mislead."""


class RegistrationRefused(EtlError):
    """The registration names something that this image or the Prefect server does not accept."""


class ClaimLost(EtlError):
    """A later claim on the run or on its logical date exists: this one may write nothing more."""
