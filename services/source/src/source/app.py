"""The HTTP calls and how they are put together."""

import datetime as dt
import re
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Body, Depends, FastAPI, Query, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from source import problems
from source.errors import BadPageError, NotJsonError, RepeatedParameterError
from source.faults import FaultBoard, FaultOrFaults, FaultReports
from source.logs import AccessLog
from source.records import TABLES, Records, recorded_day
from source.sabotage import Sabotage, accepted
from source.wire import MAX_PAGE_ROWS, Encoder, Media, Selection, is_current, negotiate

CALENDAR_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def calendar_date(text: object) -> dt.date:
    """A date written YYYY-MM-DD, and nothing else that Python or pydantic would take for one."""
    try:
        if isinstance(text, str) and CALENDAR_DATE.fullmatch(text):
            return dt.date.fromisoformat(text)
    except ValueError:
        pass
    raise PydanticCustomError("calendar_date", "is not a date: give a day as YYYY-MM-DD, such as 2013-01-15")


class NoQuery(BaseModel):
    """A call without parameters."""

    model_config = ConfigDict(extra="forbid")


class DayQuery(BaseModel):
    """One day of a daily table, all of it or a page."""

    model_config = ConfigDict(extra="forbid")

    date: Annotated[dt.date, BeforeValidator(calendar_date)] = Field(
        description="any year's day; the answer is that day of 2013", examples=["2013-01-15"]
    )
    limit: int | None = Field(None, ge=1, le=MAX_PAGE_ROWS, description="rows a page, NDJSON only; without it, all")
    cursor: int | None = Field(None, ge=0, description="where the page begins: take it from the Link header")


async def once_each(request: Request) -> None:
    """Refuse a parameter given twice instead of picking one."""
    names = [name for name, _ in request.query_params.multi_items()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RepeatedParameterError(f"give each parameter once; repeated: {', '.join(twice)}")


async def json_body(request: Request) -> None:
    """Refuse a body that is not declared as JSON."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise NotJsonError("send the faults as JSON with Content-Type: application/json (curl: --json)")


def create_app(*, records: Records) -> FastAPI:
    """The service over `records`, with no fault set."""
    app = FastAPI(
        title="source",
        summary="Flights from New York and their weather, by day, with faults on demand",
        version="0.1.0",
        redirect_slashes=False,
        redoc_url=None,
    )
    board = FaultBoard()
    encoder = Encoder(records)
    for table in ("flights", "weather"):
        _serve_daily(app, table, encoder=encoder)
    for table in ("airlines", "airports", "planes"):
        _serve_whole(app, table, encoder=encoder)
    app.include_router(_fault_calls(board))

    @app.get("/healthz", tags=["service"])
    async def healthz() -> dict[str, str]:
        """Whether the process answers; it holds its data from the start."""
        return {"status": "ok"}

    problems.install(app)
    # The last added is the outermost: faulted requests are logged too.
    app.add_middleware(Sabotage, board=board)
    app.add_middleware(AccessLog)
    return app


def _serve_daily(app: FastAPI, table: str, *, encoder: Encoder) -> None:
    @app.get(
        f"/{table}",
        name=table,
        tags=["data"],
        response_class=Response,
        responses={**_documented(table), **problems.documented(404, 406, 422)},
        dependencies=[Depends(once_each)],
    )
    async def daily(request: Request, query: Annotated[DayQuery, Query()]) -> Response:
        """One day's rows, as recorded in 2013; a day without records has no rows."""
        media = negotiate(accepted(request.headers))
        if media is Media.ARROW and (query.limit is not None or query.cursor is not None):
            raise BadPageError(
                f"an Arrow stream is always the whole day: leave out limit and cursor, or accept {Media.NDJSON}"
            )
        day = recorded_day(query.date)
        selection = Selection(table, day=day, cursor=query.cursor or 0, limit=query.limit)
        return _answer(request, selection, media, encoder=encoder, date=query.date)


def _serve_whole(app: FastAPI, table: str, *, encoder: Encoder) -> None:
    @app.get(
        f"/{table}",
        name=table,
        tags=["data"],
        response_class=Response,
        responses={**_documented(table), **problems.documented(406, 422)},
    )
    async def whole(request: Request, _: Annotated[NoQuery, Query()]) -> Response:
        """The whole table."""
        return _answer(request, Selection(table), negotiate(accepted(request.headers)), encoder=encoder)


def _answer(
    request: Request, selection: Selection, media: Media, *, encoder: Encoder, date: dt.date | None = None
) -> Response:
    encoded = encoder.encode(selection, media)
    headers = {
        "ETag": encoded.etag,
        "Vary": "Accept",
        "X-Row-Count": str(encoded.rows),
        "X-Total-Count": str(encoded.total),
    }
    if selection.day is not None:
        headers["X-Record-Date"] = selection.day.isoformat()
    if date is not None and encoded.next_cursor is not None:
        query = {"date": date.isoformat(), "limit": selection.limit, "cursor": encoded.next_cursor}
        headers["Link"] = f'<{request.url.path}?{urlencode(query)}>; rel="next"'
    if is_current(", ".join(request.headers.getlist("if-none-match")) or None, encoded.etag):
        return Response(status_code=304, headers=headers)
    return Response(encoded.body, media_type=media, headers=headers)


def _documented(table: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of a table: the row model, and the headers that come with the rows."""
    headers = {
        "X-Row-Count": "rows in this body",
        "X-Total-Count": "rows of the day or table, over all pages",
        "X-Record-Date": "the day of 2013 the rows were recorded (daily tables)",
        "Link": 'the next page, rel="next", where there is one (daily tables)',
        "ETag": "strong; send it as If-None-Match to get 304 instead of the same bytes",
    }
    return {
        200: {
            "description": "NDJSON: one object of this schema a line. Arrow: one IPC stream with the same columns, "
            "whole numbers as int64, others as float64, times as timestamps in milliseconds UTC.",
            "content": {
                Media.NDJSON.value: {"schema": TABLES[table].model_json_schema()},
                Media.ARROW.value: {"schema": {"type": "string", "format": "binary"}},
            },
            "headers": {name: {"description": told, "schema": {"type": "string"}} for name, told in headers.items()},
        },
        304: {"description": "The client holds this representation already."},
    }


def _fault_calls(board: FaultBoard) -> APIRouter:
    router = APIRouter(prefix="/faults", tags=["faults"])

    @router.put("", dependencies=[Depends(json_body)], responses=problems.documented(415, 422))
    async def set_faults(faults: Annotated[FaultOrFaults, Body()]) -> FaultReports:
        """Set one fault or a list of them, instead of what was set before."""
        board.set(faults if isinstance(faults, list) else [faults])
        return board.report()

    @router.get("")
    async def show_faults() -> FaultReports:
        """What is set and how often each has hit."""
        return board.report()

    @router.delete("", status_code=204)
    async def clear_faults() -> None:
        """Clear all faults."""
        board.set([])

    return router
