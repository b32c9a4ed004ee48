"""What forms change: start, cancel, backfill, by the API's own routes; and who signs in or out."""

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from uuid import UUID

import structlog
from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from orchestrator.api import backfilling, bodies
from orchestrator.api import runs as api
from orchestrator.api.answers import StartRequest
from orchestrator.api.parts import OfPipeline, WithCaller, WithParts
from orchestrator.api.plans import BackfillPreview, BackfillRequest
from orchestrator.doors import browsing
from orchestrator.errors import InvalidRequest
from orchestrator.page.forms import fields_of, refuse_foreign
from orchestrator.page.rendering import HEADERS, root
from orchestrator.page.routes import WithPages

ONCE = re.compile(r"[\x21-\x7e]{1,255}")

router = APIRouter(include_in_schema=False)
log = structlog.get_logger(__name__)


@router.post("/pipelines/{pipeline}/start")
async def start(request: Request, pipeline: OfPipeline, parts: WithParts, page: WithPages) -> Response:
    """Start a run of the day that the form names; the same form again leads to the same run."""
    fields = await page.forms.read(request)
    body = StartRequest(logical_date=fields.get("logical_date") or None, parameters=_parameters(fields))
    once = fields.get("once", "")
    if not ONCE.fullmatch(once):
        raise InvalidRequest("the form lacks what makes it one run; load its page again and repeat")
    answer = await api.start(request=request, pipeline=pipeline, parts=parts, body=body, idempotency_key=once)
    run_id = json.loads(bytes(answer.body))["run_id"]
    return _see(request, f"pipelines/{pipeline.name}/runs/{run_id}")


@router.post("/pipelines/{pipeline}/cancel/{run_id}")
async def cancel(run_id: UUID, request: Request, pipeline: OfPipeline, parts: WithParts, page: WithPages) -> Response:
    """Cancel a run, and show it."""
    await page.forms.read(request)
    await api.cancel(run_id, pipeline, parts)
    return _see(request, f"pipelines/{pipeline.name}/runs/{run_id}")


@router.post("/pipelines/{pipeline}/backfill")
async def backfill(request: Request, pipeline: OfPipeline, parts: WithParts, page: WithPages) -> Response:
    """Without a digest show what would be done, with it do exactly that."""
    fields = await page.forms.read(request)
    asked = {name: fields[name] for name in ("from", "to", "mode", "max_concurrent", "digest") if fields.get(name)}
    try:
        body = BackfillRequest.model_validate(asked)
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_context=False, include_url=False)[0]
        raise InvalidRequest(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    done = await backfilling.backfill(request=request, response=Response(), body=body, pipeline=pipeline, parts=parts)
    if isinstance(done, BackfillPreview):
        return page.render("preview.html", request, pipeline=pipeline.name, plan=done)
    return _see(request, f"pipelines/{pipeline.name}/backfill/{done.backfill_id}")


@router.get("/pipelines/{pipeline}/backfill/{backfill_id}")
async def progress(
    *, backfill_id: UUID, request: Request, pipeline: OfPipeline, parts: WithParts, caller: WithCaller, page: WithPages
) -> Response:
    """Where a backfill is."""
    seen = await backfilling.progress(backfill_id, pipeline, parts)
    path = f"/api/{pipeline.name}/backfill/{backfill_id}/cancel"
    may = {"backfill": await parts.entrance.may(caller, "POST", path)}
    return page.render("backfill.html", request, seen=seen, may=may)


@router.post("/pipelines/{pipeline}/backfill/{backfill_id}/{what}")
async def steer(
    *, backfill_id: UUID, what: str, request: Request, pipeline: OfPipeline, parts: WithParts, page: WithPages
) -> Response:
    """Pause, resume or cancel a backfill."""
    await page.forms.read(request)
    if what == "pause":
        await backfilling.pause(backfill_id, pipeline, parts)
    elif what == "resume":
        await backfilling.resume(backfill_id, pipeline, parts)
    elif what == "cancel":
        await backfilling.cancel(backfill_id, request, pipeline, parts)
    else:
        raise InvalidRequest("a backfill can be paused, resumed or cancelled")
    return _see(request, f"pipelines/{pipeline.name}/backfill/{backfill_id}")


@router.get(browsing.SIGN_IN)
async def ask(request: Request, page: WithPages) -> Response:
    """The form that asks who somebody is."""
    return page.render("sign-in.html", request, problem=None)


@router.post(browsing.SIGN_IN)
async def sign_in(request: Request, parts: WithParts, page: WithPages) -> Response:
    """Take a credential once; from then on the browser sends what stands for it."""
    refuse_foreign(request.headers)
    credential = (await fields_of(request)).get("credential", "")
    caller, session = await parts.entrance.sign_in(request.scope, credential)
    log.info("signed in", caller=caller.name, correlation_id=request.state.correlation_id)
    answer = _see(request, "")
    answer.headers["Set-Cookie"] = browsing.cookie(session, secure=_secure(request))
    return answer


@router.post(browsing.SIGN_OUT)
async def sign_out(request: Request) -> Response:
    """Have the browser forget who it was."""
    refuse_foreign(request.headers)
    answer = _see(request, browsing.SIGN_IN.lstrip("/"))
    answer.headers["Set-Cookie"] = browsing.cookie("", secure=_secure(request))
    return answer


def _secure(request: Request) -> bool:
    """Whether the browser came by https, by its own word: who ends it in front of this service is not asked."""
    return request.headers.get("origin", "").startswith("https://") or request.url.scheme == "https"


def _see(request: Request, path: str) -> Response:
    """Lead the browser to another page by a GET: loading that again sends nothing again."""
    return Response(status_code=HTTPStatus.SEE_OTHER, headers=HEADERS | {"Location": f"{root(request)}{path}"})


def _parameters(fields: Mapping[str, str]) -> dict[str, Any]:
    text = fields.get("parameters", "")
    if not text:
        return {}
    bodies.check_json(text.encode())
    found = json.loads(text)
    if not isinstance(found, dict):
        raise InvalidRequest('parameters: write a JSON object, such as {"sample": 2}')
    return found
