"""The command line: every command with its arguments and its help.

What a command needs is imported when it runs, so that help and completion answer at once.
"""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipelines_client.errors import Code
from pipelines_client.screen import Screen

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from pipelines_client.commands import Session
    from pipelines_client.place import Wanted

EXAMPLES = """\b
Examples:
  pipelines list
  pipelines start etl --date 2013-01-15 --watch
  pipelines runs etl --state Failed
  pipelines why yesterday
  pipelines logs -f
  pipelines backfill etl --from 2013-01-01 --to 2013-01-31
  pipelines doctor

RUN is an id, the beginning of one, a day (YYYY-MM-DD, yesterday), or nothing for the latest run. --url, --context,
--namespace and --no-color may stand anywhere. The API is looked for at --url or PIPELINES_URL, then at the address of
`make dev`, then in the cluster of the kubeconfig's context. PIPELINES_API_KEY is the credential."""

app = typer.Typer(
    name="pipelines",
    help="Start runs of pipelines, follow them, and see why one failed.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
helps = typer.Typer(
    help="What the exit codes mean, and the JSON of each command.", no_args_is_help=True, rich_markup_mode=None
)
doctors = typer.Typer(invoke_without_command=True, no_args_is_help=False, rich_markup_mode=None)
app.add_typer(doctors, name="doctor")
app.add_typer(helps, name="help")

Level = Literal["debug", "info", "warning", "error", "critical"]
Mode = Literal["missing", "failed", "degraded", "all"]
State = Literal[
    "Scheduled", "Pending", "Running", "Completed", "Failed", "Crashed", "Cancelling", "Cancelled", "Paused"
]


class Kind(StrEnum):
    """The categories of the doctor's checks."""

    MACHINE = "machine"
    KUBERNETES = "kubernetes"
    RELEASE = "release"
    PODS = "pods"
    WIRING = "wiring"
    SERVICE = "service"
    PREFECT = "prefect"
    RUNS = "runs"
    PIPELINES = "pipelines"


def _named(ctx: typer.Context, incomplete: str) -> list[str]:
    """Pipelines that begin so, for a shell's completion; only from an address that is known at once."""
    from pipelines_client.complete import pipelines

    return pipelines(ctx.find_root().params.get("url"), incomplete)


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; `pipelines help json` has its schema.")]
Pipeline = Annotated[
    str | None, typer.Argument(help="The pipeline; the only one where there is one.", autocompletion=_named)
]
OfPipeline = Annotated[str | None, typer.Option("--pipeline", "-p", help="The run's pipeline.", autocompletion=_named)]
RunName = Annotated[str | None, typer.Argument(metavar="[RUN]", help="The run; the latest where none is named.")]
Timeout = Annotated[float | None, typer.Option(help="Give up waiting after so many seconds, with exit code 3.")]


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"pipelines {version('pipelines-client')}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    *,
    url: Annotated[
        str | None, typer.Option(help="The API's address.", show_envvar=True, envvar="PIPELINES_URL")
    ] = None,
    context: Annotated[str | None, typer.Option(help="Look in the cluster of this context.")] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Look in this namespace.")] = None,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours; NO_COLOR does the same.")] = False,
    _: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)] = False,
) -> None:
    """What every command is told."""
    ctx.obj = {"url": url, "context": context, "namespace": namespace, "colours": not no_color}


@app.command("list")
def list_(ctx: typer.Context, *, as_json: AsJson = False) -> None:
    """The pipelines: schedule, next run, last run, and what holds them."""
    from pipelines_client.commands import listing

    with _session(ctx, as_json) as session:
        listing.show(session)


@app.command()
def start(
    ctx: typer.Context,
    pipeline: Pipeline = None,
    *,
    date: Annotated[str | None, typer.Option(help="The day it is about; yesterday where the schedule is.")] = None,
    parameter: Annotated[list[str] | None, typer.Option(help="name=value, JSON or text; may be repeated.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it; the exit code is its outcome.")] = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Start a run."""
    from pipelines_client.commands import start as command

    with _session(ctx, as_json) as session:
        _exit(command.start(session, pipeline, day=date, parameters=parameter or (), follow=watch, timeout=timeout))


@app.command()
def status(ctx: typer.Context, run: RunName = None, *, pipeline: OfPipeline = None, as_json: AsJson = False) -> None:
    """All that is known of a run; the exit code is its outcome."""
    from pipelines_client.commands import status as command

    with _session(ctx, as_json) as session:
        _exit(command.show(session, run, of=pipeline))


@app.command()
def runs(
    ctx: typer.Context,
    pipeline: Pipeline = None,
    *,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many.")] = 20,
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    date: Annotated[str | None, typer.Option(help="Only those about this day.")] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV: timestamp,flow,state,duration_ms,notes.")] = False,
) -> None:
    """The latest runs, newest first."""
    from pipelines_client.commands import runs as command

    with _session(ctx, as_json) as session:
        command.show(session, pipeline, limit=limit, state=state, day=date, as_csv=as_csv)


@app.command()
def why(ctx: typer.Context, run: RunName = None, *, pipeline: OfPipeline = None, as_json: AsJson = False) -> None:
    """Why a run failed or does not go on, and the command that mends it; the latest such run where none is named."""
    from pipelines_client.commands import why as command

    with _session(ctx, as_json) as session:
        command.why(session, run, of=pipeline)


@app.command()
def logs(
    ctx: typer.Context,
    run: RunName = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run is over.")] = False,
    tail: Annotated[int | None, typer.Option(min=1, max=200, help="Begin with the last so many lines.")] = None,
    level: Annotated[Level, typer.Option(help="Only lines that matter at least so much.")] = "debug",
    pipeline: OfPipeline = None,
    as_json: AsJson = False,
) -> None:
    """What a run logged; with --follow --json an object a line."""
    from pipelines_client.commands import logs as command

    with _session(ctx, as_json) as session:
        command.show(session, run, of=pipeline, follow=follow, tail=tail, level=level)


@app.command()
def cancel(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN|BACKFILL", help="The run, or a backfill's id.")],
    *,
    pipeline: OfPipeline = None,
    as_json: AsJson = False,
) -> None:
    """End a run in whatever state it is, or a whole backfill."""
    from pipelines_client.commands import cancel as command

    with _session(ctx, as_json) as session:
        command.cancel(session, run, of=pipeline)


@app.command()
def backfill(
    ctx: typer.Context,
    pipeline: Pipeline = None,
    *,
    first: Annotated[str, typer.Option("--from", help="The first day.")],
    last: Annotated[str, typer.Option("--to", help="The last day.")],
    mode: Annotated[Mode, typer.Option(help="Which of the days.")] = "missing",
    max_concurrent: Annotated[int, typer.Option(min=1, max=100, help="How many runs at a time.")] = 4,
    runs_per_pod: Annotated[
        int, typer.Option(min=1, max=1000, help="How many of them a pod executes, one after another.")
    ] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what it would do.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it to its end.")] = True,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Run each day of a range that lacks a good run: shown first, then done."""
    from pipelines_client.commands import backfill as command

    with _session(ctx, as_json) as session:
        _exit(
            command.backfill(
                session,
                pipeline,
                first=first,
                last=last,
                mode=mode,
                max_concurrent=max_concurrent,
                runs_per_pod=runs_per_pod,
                dry_run=dry_run,
                yes=yes,
                wait=wait,
                timeout=timeout,
            )
        )


@app.command()
def calendar(
    ctx: typer.Context,
    pipeline: Pipeline = None,
    *,
    first: Annotated[str | None, typer.Option("--from", help="The first day; twelve weeks ago.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="The last day; today.")] = None,
    as_json: AsJson = False,
) -> None:
    """What became of each day, a letter a day."""
    from pipelines_client.commands import calendar as command

    with _session(ctx, as_json) as session:
        command.show(session, pipeline, first=first, last=last)


@app.command("open")
def open_(
    ctx: typer.Context,
    which: Annotated[Literal["page", "api", "prefect"] | None, typer.Argument(help="One of them.")] = None,
    *,
    browse: Annotated[bool, typer.Option("--browse/--no-browse", help="Open the browser, or only say where.")] = True,
    as_json: AsJson = False,
) -> None:
    """The platform's page and Prefect's in the browser: what failed, why, and how to mend it."""
    from pipelines_client.commands import opening

    opening.show(_wanted(ctx), _screen(ctx, as_json), which=which, browse=browse)


Shape = Literal["table", "short", "json"]
OfKind = Annotated[list[Kind] | None, typer.Option("--category", help="Only checks of this kind; may be repeated.")]
Output = Annotated[Shape, typer.Option("--output", "-o", help="All lines, only what did not pass, or JSON.")]
Before = Annotated[bool, typer.Option("--pre", help="What can be known before an install; a kubeconfig is enough.")]


@doctors.callback()
def doctor(
    ctx: typer.Context,
    *,
    before: Before = False,
    category: OfKind = None,
    output: Output = "table",
    timeout: Annotated[float | None, typer.Option(min=1, help="How long it may take, in seconds; 10.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look for what is wrong, here or in the cluster, and say what mends it. Nothing is changed; warnings pass."""
    if ctx.invoked_subcommand is not None:
        return
    from pipelines_client.commands import doctor as command

    screen = _screen(ctx, as_json or output == "json")
    told = ctx.find_root().obj
    place = {name: told[name] for name in ("url", "context", "namespace")}
    _exit(command.doctor(screen, **place, before=before, only=category or (), short=output == "short", seconds=timeout))


@doctors.command("bundle")
def bundle(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(help="The file to write, such as pipelines.tar.gz; it must not be there yet.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Write what the checks found, versions, pods, events and logs into a file, without secrets, for whoever helps."""
    from pipelines_client.commands import bundle as command

    told = ctx.find_root().obj
    place = {name: told[name] for name in ("url", "context", "namespace")}
    _exit(command.bundle(_screen(ctx, as_json), file, **place))


@app.command()
def completion(shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument()]) -> None:
    """The completion for a shell, to be sourced: source <(pipelines completion bash)."""
    from pipelines_client.complete import script

    typer.echo(script(shell))


@helps.command("exit-codes")
def exit_codes(*, as_json: AsJson = False) -> None:
    """What each exit code means."""
    if as_json:
        Screen().document([{"code": code.value, "meaning": code.meaning} for code in Code])
        return
    for code in Code:
        typer.echo(f"{code.value:>3}  {code.meaning}")


@helps.command("json")
def json_(
    command: Annotated[str | None, typer.Argument(help="Of this command; of all, by name, else.")] = None,
) -> None:
    """The JSON schema of what --json prints."""
    from pipelines_client.documents import schemas

    told = schemas()
    if command is not None and command not in told:
        raise typer.BadParameter(f"there is: {', '.join(told)}")
    Screen().document(told[command] if command else told)


def _wanted(ctx: typer.Context) -> "Wanted":
    from pipelines_client.place import Wanted

    told = ctx.find_root().obj
    return Wanted(url=told["url"], context=told["context"], namespace=told["namespace"])


def _screen(ctx: typer.Context, as_json: bool) -> Screen:
    return Screen(as_json=as_json, colours=ctx.find_root().obj["colours"])


def _session(ctx: typer.Context, as_json: bool) -> "AbstractContextManager[Session]":
    from pipelines_client.commands import session

    return session(_wanted(ctx), _screen(ctx, as_json))


def _exit(code: Code) -> None:
    if code is not Code.OK:
        raise typer.Exit(code)
