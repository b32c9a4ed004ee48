"""What shells ask while somebody types."""

import os

from typer.completion import completion_init, get_completion_script  # type: ignore[attr-defined] # no __all__

VARIABLE = "_PIPELINES_COMPLETE"


def asked() -> bool:
    """Whether a shell started this process for its completion; if so, typer is made ready to answer."""
    if VARIABLE not in os.environ:
        return False
    completion_init()
    return True


def script(shell: str) -> str:
    """What a shell sources to complete the command."""
    return get_completion_script(prog_name="pipelines", complete_var=VARIABLE, shell=shell)


def pipelines(url: str | None, incomplete: str) -> list[str]:
    """The pipelines whose names begin so; none where the API is not at hand. A shell waits for this."""
    from pipelines_client.api import connect  # noqa: PLC0415 -- commands and options are completed without it
    from pipelines_client.errors import ClientError  # noqa: PLC0415 -- as above
    from pipelines_client.place import KEY, LOCAL, URL  # noqa: PLC0415 -- as above

    named = url or os.environ.get(URL)
    try:
        with connect(named or LOCAL, key=os.environ.get(KEY) if named else None) as api:
            return [one.name for one in api.pipelines().pipelines if one.name.startswith(incomplete)]
    except ClientError:
        return []
