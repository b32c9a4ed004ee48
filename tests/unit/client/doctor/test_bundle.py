"""The bundle of evidence: what is in it, and that no secret is, wherever one stood."""

import base64
import json
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from pipelines_client.doctor.redaction import Redactor

from ..running import Pipelines
from .breaks import Place
from .healthy import moment, pipeline, thing

HERE = ("--context", "here")
# Each is planted once, and all of them have this in common.
PLANTED = "pl4nted"


def secret(number: int) -> str:
    """One that can be told from the others."""
    return f"{PLANTED}{number:03}Zx9qWv7"


PEM = f"-----BEGIN RSA PRIVATE KEY-----\n{secret(1)}\n{secret(2)}\n-----END RSA PRIVATE KEY-----"
JWT = f"eyJhbGciOiJSUzI1NiJ9.{base64.urlsafe_b64encode(secret(3).encode()).decode().rstrip('=')}.{secret(4)}"
LINES = (
    f"connecting to postgresql://orchestrator:{secret(10)}@db:5432/orchestrator",
    f"connecting to postgresql+asyncpg://u:{secret(11)}@{secret(11)}@db/x?sslmode=disable",
    f"GET https://api.example.com/data?day=1&api_key={secret(12)}&token={secret(13)} answered 401",
    f"> Authorization: Bearer {secret(14)}",
    f"> authorization: Basic {secret(15)}==",
    f"headers {{'X-API-Key': '{secret(16)}', 'accept': '*/*', 'Cookie': 'session={secret(17)}'}}",
    f"PREFECT_API_AUTH_STRING=prefect:{secret(18)}",
    f"PGPASSWORD={secret(19)} psql",
    f'{{"event": "settings", "database_password": "{secret(20)}", "port": 5432}}',
    f"password: {secret(21)}",
    f"started with --api-key {secret(22)} --verbose",
    f"started with --password={secret(23)}",
    f'env [{{"name": "AWS_SECRET_ACCESS_KEY", "value": "{secret(24)}"}}]',
    f"client_secret => {secret(25)}",
    f"a token of somebody: {JWT}",
    f"ghp_{secret(26)}{secret(26)}",
    f'{{\\"MY_TOKEN\\": \\"{secret(27)}\\"}}',
    f"redis://:{secret(28)}@valkey:6379/0",
    f'password="{secret(29)} and {secret(30)}"',
    f"the token password: {secret(31)}",
    f"secretName: password={secret(32)}",
    f"cannot log in with {secret(99)}",
    PEM,
)
KEPT = (
    "893 rows loaded of 2013-01-15 in 0.4 s",
    "secretName: pipelines-postgresql",
    "GET https://flights.example.com/flights?date=2013-01-15 answered 503",
)
ENVIRONMENT = {"PIPELINES_API_KEY": secret(99), "DATABASE_URL": f"postgresql://me:{secret(98)}@db/x"}


def plant(place: Place) -> None:
    """A secret wherever one could stand."""
    wires = place.wires
    log = "\n".join((*KEPT, *LINES))
    for pod in wires.objects["pods"]:
        name = pod["metadata"]["name"]
        pod["metadata"]["annotations"] = {
            "kubectl.kubernetes.io/last-applied-configuration": json.dumps(
                {"spec": {"containers": [{"env": [{"name": "SOURCE_TOKEN", "value": secret(40)}]}]}}
            ),
            "vault/password": secret(41),
        }
        for container in pod["spec"]["containers"]:
            wires.texts[f"{name}/{container['name']}"] = log
            container["command"] = ["serve", "--password", secret(42), f"--token={secret(43)}", "--port", "8080"]
            container["env"] = [
                {"name": "SOURCE_PASSWORD", "value": secret(44)},
                {"name": "UPSTREAM", "value": f"https://user:{secret(45)}@example.com/x"},
                {"name": "HTTP_HEADERS", "value": f"Authorization=Bearer {secret(46)}"},
                {"name": "PLAIN", "value": "to-be-seen"},
                {"name": "FROM_SECRET", "valueFrom": {"secretKeyRef": {"name": "ours", "key": "the-key"}}},
            ]
    wires.objects["events"].append(
        thing(
            "e",
            involvedObject={"kind": "Pod", "name": "pipelines-worker-0"},
            type="Warning",
            reason="Failed",
            message=f"cannot pull from https://puller:{secret(47)}@registry.example.com",
            lastTimestamp=moment(5),
        )
    )
    wires.of("secrets", "pipelines-postgresql")["data"]["another"] = base64.b64encode(secret(48).encode()).decode()
    wires.objects["configmaps"].append(thing("of-others", data={"password": secret(49)}))
    kept = wires.of("configmaps", "pipelines-register-1")["data"]
    told = json.loads(kept["registration.json"])
    manifest = told["workPool"]["baseJobTemplate"]["job_configuration"]["job_manifest"]
    manifest["spec"]["template"]["spec"]["containers"][0]["env"].append({"name": "A_CREDENTIAL", "value": secret(50)})
    kept["registration.json"] = json.dumps(told)
    reason = {"id": "PL101", "title": "t", "detail": f"GET https://a:{secret(51)}@b/c", "fix": "f", "since": moment()}
    held = [{"runs": 1, "reason": reason}]
    wires.answers["/api/pipelines"] = (200, {"pipelines": [pipeline() | {"held": held}]})
    wires.answers["/metrics"] = (200, wires.answers["/metrics"][1] + f"# api_key={secret(52)}\n")
    logs = place.checkout / ".local" / "logs"
    logs.mkdir()
    (logs / "orchestrator.log").write_text(log)


def contents(file: Path) -> dict[str, str]:
    """What is in a bundle, by name."""
    with tarfile.open(file) as archive:
        found = {one.name: archive.extractfile(one) for one in archive.getmembers()}
        return {name.removeprefix("pipelines-doctor/"): read.read().decode() for name, read in found.items() if read}


@pytest.fixture
def command(place: Place, tmp_path: Path) -> Pipelines:
    """The command where the kubeconfig leads to one wire and PIPELINES_URL to the other."""
    return Pipelines(place.wires.api, home=tmp_path)


async def test_planted_secrets_are_not_in_the_bundle(
    place: Place, command: Pipelines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In no file, as it is or in base64; what explains a failure is still there."""
    plant(place)
    file = tmp_path / "evidence.tar.gz"
    monkeypatch.chdir(place.checkout)
    done = await command("doctor", "bundle", str(file), "--json", *HERE, **ENVIRONMENT)
    assert done.code == 0, done.err
    found = contents(file)
    assert sorted(found) == sorted(done.json["files"])
    for name, text in found.items():
        for form in (PLANTED, base64.b64encode(PLANTED.encode()).decode()[:8]):
            at = text.find(form)
            assert at < 0, f"{name}: {text[max(0, at - 80) : at + 40]}"
    assert PLANTED not in done.out + done.err
    assert file.stat().st_mode & 0o777 == 0o600
    pods = found["cluster/pods.json"]
    for kept in ("to-be-seen", '"the-key"', "SOURCE_PASSWORD", "--port", "pipelines-worker-0"):
        assert kept in pods
    for log in ("logs/pipelines-worker-0/worker.log", "machine/orchestrator.log"):
        assert all(line in found[log] for line in KEPT)
        assert "orchestrator" in found[log]
    assert "registry.example.com" in found["cluster/events.json"]
    assert not [name for name in found if "secret" in name]
    assert json.loads(found["report.json"])["categories"]
    assert json.loads(found["versions.json"])["kubernetes"]["gitVersion"] == "v1.34.1"
    assert found["missing.txt"] == ""


async def test_what_cannot_be_had_is_listed(place: Place, command: Pipelines, tmp_path: Path) -> None:
    """And the rest is there; a file that is there already is left alone."""
    place.wires.denied = {("get", "pods/log"), ("list", "networkpolicies")}
    place.wires.api = "http://127.0.0.1:9"
    file = tmp_path / "evidence.tar.gz"
    done = await Pipelines(place.wires.api, home=tmp_path)("doctor", "bundle", str(file), *HERE)
    assert done.code == 0, done.err
    assert f"files, {file.stat().st_size / 1024:.0f} KiB: {file}" in done.out
    found = contents(file)
    assert "cluster/networkpolicies.json: you may not list networkpolicies" in found["missing.txt"]
    assert "logs/pipelines-worker-0/worker.log: you may not get pods/log" in found["missing.txt"]
    assert "service/pipelines.json" in found["missing.txt"]
    assert "cluster/pods.json" in found
    again = await command("doctor", "bundle", str(file), *HERE)
    assert again.code == 2
    assert "File exists" in again.err


@pytest.mark.parametrize("line", LINES)
def test_a_secret_in_a_line_is_replaced(line: str) -> None:
    """By its name, its shape or its value; and alike inside a document, where the line is a string."""
    redactor = Redactor(ENVIRONMENT)
    assert PLANTED not in redactor.text(f"before {line} after")
    assert PLANTED not in json.dumps(redactor.value({"message": line, "list": [line]}))
    assert "***" in redactor.text(line)


@pytest.mark.parametrize(
    "told",
    [
        *KEPT,
        "2013-01-15T09:00:00Z run 0b5f0ac8-9a0e-4b8e-9a3b-6f0f6f1f6a11 Completed",
        "author: somebody",
        "sha256:43fb03fa27e843fb03fa27e843fb03fa27e843fb03fa27e843fb03fa27e8ab",
        "passes 3 of 4 checks",
        {"secretName": "ours", "automountServiceAccountToken": False, "tokenExpirationSeconds": 3607},
        {"name": "PORT", "value": "8080"},
        {"secretKeyRef": {"name": "ours", "key": "orchestrator-url"}},
    ],
)
def test_what_is_no_secret_stays(told: Any) -> None:
    """A bundle that says nothing helps nobody."""
    redactor = Redactor({})
    assert (redactor.text(told) if isinstance(told, str) else redactor.value(told)) == told


def test_a_very_long_word_is_no_hindrance() -> None:
    """A line of a log may be anything; what takes a moment must not take minutes."""
    redactor = Redactor({})
    began = time.monotonic()
    for word in ("a-b.c_d", "secret", "secret-a", "pass ", "x://", "eyJaaaaaa.", "name: token "):
        redactor.text(word * 20000)
    assert time.monotonic() - began < 20
