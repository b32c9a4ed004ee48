"""Faults as they are set, counted and chosen; those a client sees as an ordinary answer."""

import asyncio
import shlex
import time
from pathlib import Path
from typing import Any

import httpx
import pytest


async def _set(http: httpx.AsyncClient, faults: Any) -> None:
    (await http.put("/faults", json=faults)).raise_for_status()


async def _statuses(http: httpx.AsyncClient, requests: int, url: str = "/airlines") -> list[int]:
    return [(await http.get(url)).status_code for _ in range(requests)]


async def test_a_status_fault_answers_with_it(faulty: httpx.AsyncClient) -> None:
    """The status, Retry-After, and a problem document; without a count until cleared."""
    await _set(faulty, {"kind": "status", "status": 503, "retry_after": 2})
    answer = await faulty.get("/airlines", headers={"X-Correlation-ID": "run-7"})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["X-Correlation-ID"] == "run-7"
    assert await _statuses(faulty, 5) == [503] * 5
    assert (await faulty.delete("/faults")).status_code == 204
    assert await _statuses(faulty, 2) == [200, 200]
    assert (await faulty.get("/faults")).json() == {"faults": []}


async def test_a_status_without_a_name_of_its_own_can_be_set(faulty: httpx.AsyncClient) -> None:
    """Proxies answer with numbers no registry knows."""
    await _set(faulty, {"kind": "status", "status": 520})
    answer = await faulty.get("/airlines")
    assert (answer.status_code, answer.json()["title"]) == (520, "Error")
    assert "Retry-After" not in answer.headers


async def test_a_counted_fault_ends_by_itself(faulty: httpx.AsyncClient) -> None:
    """An upstream that fails twice and then works."""
    await _set(faulty, {"kind": "status", "status": 500, "count": 2})
    assert await _statuses(faulty, 4) == [500, 500, 200, 200]
    [report] = (await faulty.get("/faults")).json()["faults"]
    assert (report["seen"], report["hits"], report["remaining"]) == (2, 2, 0)


async def test_a_count_is_exact_under_concurrent_requests(faulty: httpx.AsyncClient) -> None:
    """Of fifty requests at once exactly twenty fail, delayed or not."""
    await _set(
        faulty,
        [{"kind": "latency", "seconds": 0.01}, {"kind": "status", "status": 502, "count": 20}],
    )
    answers = await asyncio.gather(*(faulty.get("/airlines") for _ in range(50)))
    assert sorted(answer.status_code for answer in answers) == [200] * 30 + [502] * 20


async def test_a_seed_repeats_the_choices(faulty: httpx.AsyncClient) -> None:
    """The same seed fails the same requests, about as many as the rate says; another seed fails others."""
    runs = []
    for seed in (7, 7, 8):
        await _set(faulty, {"kind": "status", "status": 503, "rate": 0.5, "seed": seed})
        runs.append(await _statuses(faulty, 60))
        [report] = (await faulty.get("/faults")).json()["faults"]
        assert (report["seen"], report["hits"]) == (60, runs[-1].count(503))
    assert runs[0] == runs[1] != runs[2]
    assert 15 <= runs[0].count(503) <= 45


@pytest.mark.parametrize(("rate", "status"), [(0, 200), (1, 503)])
async def test_the_rates_at_the_ends_are_certain(faulty: httpx.AsyncClient, rate: int, status: int) -> None:
    """Never is never, always is always."""
    await _set(faulty, {"kind": "status", "status": 503, "rate": rate})
    assert set(await _statuses(faulty, 30)) == {status}


async def test_a_fault_keeps_to_its_paths(faulty: httpx.AsyncClient) -> None:
    """Other paths neither fail nor use up the count."""
    await _set(faulty, {"kind": "status", "status": 503, "paths": ["/flights"], "count": 1})
    assert await _statuses(faulty, 2, "/weather?date=2013-01-01") == [200, 200]
    assert await _statuses(faulty, 2, "/flights?date=2013-01-01") == [503, 200]


async def test_several_faults_play_out_in_order(faulty: httpx.AsyncClient) -> None:
    """A fault that ended a request hides it from those behind, so a list of counted faults is a script."""
    await _set(
        faulty,
        [
            {"kind": "status", "status": 500, "count": 1},
            {"kind": "garbage", "count": 1},
            {"kind": "status", "status": 429, "retry_after": 1, "count": 1},
        ],
    )
    assert await _statuses(faulty, 4) == [500, 200, 429, 200]
    assert [fault["hits"] for fault in (await faulty.get("/faults")).json()["faults"]] == [1, 1, 1]


async def test_latency_delays_whatever_the_answer_is(faulty: httpx.AsyncClient) -> None:
    """Delays add up, and a status set before them is delayed as well."""
    await _set(
        faulty,
        [
            {"kind": "status", "status": 503},
            {"kind": "latency", "seconds": 0.1},
            {"kind": "latency", "seconds": 0.05},
        ],
    )
    began = time.monotonic()
    assert await _statuses(faulty, 1) == [503]
    assert time.monotonic() - began >= 0.15


async def test_health_and_faults_are_never_faulted(faulty: httpx.AsyncClient) -> None:
    """Probes and the way back stay open."""
    await _set(faulty, {"kind": "status", "status": 503})
    assert await _statuses(faulty, 1, "/healthz") == [200]
    assert await _statuses(faulty, 1, "/faults") == [200]
    [report] = (await faulty.get("/faults")).json()["faults"]
    assert report["seen"] == 0


async def test_setting_replaces_what_was_set(faulty: httpx.AsyncClient) -> None:
    """PUT states the whole; an empty list is none."""
    await _set(faulty, [{"kind": "status", "status": 503}, {"kind": "drop"}])
    await _set(faulty, {"kind": "status", "status": 418})
    assert await _statuses(faulty, 1) == [418]
    await _set(faulty, [])
    assert await _statuses(faulty, 1) == [200]


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        ({"kind": "flood"}, "'status', 'drop', 'truncate', 'garbage', 'latency'"),
        ({}, "kind"),
        ("drop", "body"),
        ({"kind": "status"}, "status: is required"),
        ({"kind": "status", "status": 200}, "status"),
        ({"kind": "status", "status": "503"}, "status"),
        ({"kind": "status", "status": 503, "rte": 0.5}, "rte: is not known here"),
        ({"kind": "drop", "status": 503}, "status: is not known here"),
        ({"kind": "drop", "rate": 1.1}, "rate"),
        ({"kind": "drop", "count": 0}, "count"),
        ({"kind": "drop", "paths": []}, "paths"),
        ({"kind": "drop", "paths": ["/healthz"]}, "/flights"),
        ({"kind": "latency", "seconds": -1}, "seconds"),
        ([{"kind": "drop"}, {"kind": "latency"}], "seconds: is required"),
    ],
)
async def test_a_wrong_fault_is_refused(faulty: httpx.AsyncClient, faults: Any, told: str) -> None:
    """422 with the field's name, and what was set before stays."""
    await _set(faulty, {"kind": "status", "status": 503})
    answer = await faulty.put("/faults", json=faults)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert told in answer.json()["detail"]
    assert await _statuses(faulty, 1) == [503]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b'{"kind": "drop"', "application/json", 422),
        (b'{"kind": "latency", "seconds": Infinity}', "application/json", 422),
        (b'{"kind": "drop", "rate": NaN}', "application/json", 422),
        (b"", "application/json", 422),
        (b'{"kind": "drop"}', "application/x-www-form-urlencoded", 415),
        (b'{"kind": "drop"}', "", 415),
    ],
)
async def test_a_body_that_is_not_json_is_refused(
    faulty: httpx.AsyncClient, body: bytes, content_type: str, status: int
) -> None:
    """Also what Python's own parser would take for a number."""
    answer = await faulty.put("/faults", content=body, headers={"Content-Type": content_type})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert (await faulty.get("/faults")).json() == {"faults": []}


async def test_the_examples_of_the_readme_work(faulty: httpx.AsyncClient) -> None:
    """What people copy is accepted."""
    readme = Path(__file__).parents[3] / "services" / "source" / "README.md"
    lines = [
        shlex.split(line, comments=True) for line in readme.read_text().splitlines() if line.startswith("curl -X PUT")
    ]
    bodies = [words[words.index("--json") + 1] for words in lines]
    assert len(bodies) >= 4
    for body in bodies:
        answer = await faulty.put("/faults", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 200, body


async def test_a_server_that_cannot_hang_up_says_so(faulty: httpx.AsyncClient) -> None:
    """A drop is never faked by an answer."""
    await _set(faulty, {"kind": "drop"})
    with pytest.raises(RuntimeError, match="python -m source"):
        await faulty.get("/airlines")
