"""Why a request cannot be answered. Each class has one status, given in `problems`.

SourceError
├── NoRecordsError          the date exists, and 2013 had no such day
├── NotAcceptableError      no representation the client accepts
├── BadPageError            paging that this table or representation does not have
├── RepeatedParameterError  one query parameter given twice
└── NotJsonError            a body sent as something else than JSON
"""


class SourceError(Exception):
    """A request that gets a problem document; the text says what to do."""


class NoRecordsError(SourceError):
    """The calendar has this date, the year of the records had not."""


class NotAcceptableError(SourceError):
    """The Accept header leaves none of the representations."""


class BadPageError(SourceError):
    """Paging was asked for where it does not exist, or past the last row."""


class RepeatedParameterError(SourceError):
    """A query parameter that stands for one value was given more than once."""


class NotJsonError(SourceError):
    """A body whose Content-Type is not JSON."""
