"""What can end the local platform, each with the words that a person needs to go on."""

from pathlib import Path


class PlatformError(Exception):
    """The platform cannot start or go on; its text says what to do."""


class PartFailed(PlatformError):
    """One part ended or did not get ready. Carries the part's name and its log file, if it has one."""

    def __init__(self, part: str, problem: str, log: Path | None = None) -> None:
        super().__init__(f"{part}: {problem}")
        self.part = part
        self.log = log
