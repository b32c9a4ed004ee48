"""The correlation id at the end of each line that Prefect logs, in this process and in those that a flow starts."""

import logging
import os

# Prefect's own formats; its ids have no character that a format would expand.
_FORMATS = {
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FORMAT": "%(name)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "Flow run %(flow_run_name)r",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "Task run %(task_run_name)r",
}

# Of what is logged before the run's own is known.
UNKNOWN = "-"


def carry(correlation_id: str) -> None:
    """Have Prefect's lines carry the id, where nobody has set their formats; before Prefect is imported."""
    for variable, who in _FORMATS.items():
        os.environ.setdefault(variable, _format(who, correlation_id))


def carry_another(correlation_id: str, *, before: str) -> None:
    """Have them carry another id from now on; after Prefect was imported, which reads the formats once."""
    from prefect.logging.formatters import PrefectFormatter  # noqa: PLC0415 - see etl.start

    for variable in _FORMATS:
        os.environ[variable] = os.environ[variable].replace(_ending(before), _ending(correlation_id))
    loggers = [logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)]
    formatters = {handler.formatter for logger in loggers for handler in logger.handlers}
    for formatter in formatters:
        if isinstance(formatter, PrefectFormatter):
            for style in (formatter._style, formatter._flow_run_style, formatter._task_run_style):
                style._fmt = style._fmt.replace(_ending(before), _ending(correlation_id))


def _format(who: str, correlation_id: str) -> str:
    return f"%(asctime)s.%(msecs)03d | %(levelname)-7s | {who} - %(message)s{_ending(correlation_id)}"


def _ending(correlation_id: str) -> str:
    return f" | correlation_id={correlation_id}"
