"""Credentials are changed while runs go on, by the commands of the chart's README: all follow, no run is lost."""

import concurrent.futures
import re
import subprocess
import time
from pathlib import Path
from uuid import uuid4

import httpx

from .platform import Kubectl, Platform, Release, eventually

README = Path(__file__).parents[2] / "charts" / "pipelines" / "README.md"
ROLLOUT_SECONDS = 180
RUN_SECONDS = 300


def documented(heading: str, kubectl: Kubectl, release: Release, *, within: float) -> None:
    """Run the README's commands under that heading on this release, as somebody would who pastes them."""
    section = README.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    [commands] = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    commands = commands.replace("kubectl --namespace pipelines", " ".join(kubectl.command()))
    for part in ("prefect-auth", "postgresql", "worker"):
        commands = commands.replace(f"pipelines-{part}", f"{release.name}-{part}")
    commands = commands.replace("instance=pipelines", f"instance={release.name}")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands], capture_output=True, text=True, timeout=within, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def loads(release: Release, runs: list[str]) -> dict[str, str]:
    """How often each of these runs has loaded."""
    loaded = release.query("warehouse", "SELECT run_id, count(*) FROM loads GROUP BY run_id")
    return {run: count for run, count in loaded if run in runs}


def test_prefects_credential_is_changed_without_losing_a_run(release: Release, kubectl: Kubectl) -> None:
    """The old one is refused, the new one opens; runs on their way and one that comes after load their days, once."""
    old = kubectl.secret(f"{release.name}-prefect-auth", "auth-string")
    with Platform.connect(release) as platform:
        before = [platform.start({"logical_date": f"2013-08-0{day}"}) for day in range(1, 4)]
        eventually(
            lambda: any(platform.status(run)["state"] == "Running" for run in before),
            within=120,
            every=0.2,
            what="a run is on its way",
        )
        documented("A change of a credential", kubectl, release, within=120)
    for part in ("prefect-server", "worker", "orchestrator"):
        kubectl("rollout", "status", f"deployment/{release.name}-{part}", f"--timeout={ROLLOUT_SECONDS}s")
    new = kubectl.secret(f"{release.name}-prefect-auth", "auth-string")
    assert new != old
    with Platform.connect(release) as platform:
        user, _, password = old.partition(":")
        refused = httpx.post(f"{platform.prefect.base_url}flow_runs/count", json={}, auth=(user, password))
        assert refused.status_code == 401, refused.text
        assert platform.prefect.post("/flow_runs/count", json={}).status_code == 200
        after = platform.start({"logical_date": "2013-08-04"})
        for run in [*before, after]:
            assert platform.finished(run, within=RUN_SECONDS)["state"] == "Completed", run
    assert loads(release, [*before, after]) == dict.fromkeys([*before, after], "1")


def opens(release: Release, role: str, password: str) -> bool:
    """Whether the role comes in with that password, by the address that asks for one."""
    script = (
        f"PGPASSWORD={password} psql --host \"$(hostname -i)\" --username {role} --dbname {role} --command 'SELECT 1'"
    )
    command = release.kubectl.command("exec", f"{release.name}-postgresql-0", "--", "sh", "-c", script)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 or "password authentication failed" in done.stderr, done.stderr
    return done.returncode == 0


def started(release: Release, day: str, *, within: float) -> str:
    """A start as a careful caller makes it: the same request again until it is answered."""
    deadline, key = time.monotonic() + within, str(uuid4())
    while True:
        try:
            with (
                release.kubectl.port_forward(f"service/{release.name}-orchestrator", 8080) as url,
                httpx.Client(base_url=url, timeout=10) as api,
            ):
                answer = api.post("/api/etl/start", json={"logical_date": day}, headers={"Idempotency-Key": key})
            if answer.status_code == 202:
                return str(answer.json()["run_id"])
            refusal = answer.text
        except (httpx.TransportError, AssertionError) as exc:
            refusal = str(exc)
        assert time.monotonic() < deadline, f"a start was not accepted within {within:g} s: {refusal}"
        time.sleep(1)


def test_the_databases_passwords_are_changed_without_losing_a_run(release: Release, kubectl: Kubectl) -> None:
    """The old ones are refused, the new ones open; runs from before, from meanwhile and from after load once each."""
    secret, roles = f"{release.name}-postgresql", ("prefect", "orchestrator", "warehouse")
    old = {role: kubectl.secret(secret, f"{role}-password") for role in roles}
    assert all(opens(release, role, password) for role, password in old.items())
    with Platform.connect(release) as platform:
        runs = [platform.start({"logical_date": f"2013-08-1{day}"}) for day in range(3)]
    with concurrent.futures.ThreadPoolExecutor() as beside:
        changing = beside.submit(
            documented, "A change of the databases' passwords", kubectl, release, within=ROLLOUT_SECONDS + RUN_SECONDS
        )
        for day in range(10, 31):
            runs.append(started(release, f"2013-07-{day}", within=ROLLOUT_SECONDS))
            if changing.done():
                break
            time.sleep(5)
        changing.result()
    new = {role: kubectl.secret(secret, f"{role}-password") for role in roles}
    for role in roles:
        assert (opens(release, role, old[role]), opens(release, role, new[role])) == (False, True), role
    with Platform.connect(release) as platform:
        runs.append(platform.start({"logical_date": "2013-08-14"}))
        for run in runs:
            assert platform.finished(run, within=RUN_SECONDS)["state"] == "Completed", run
    assert loads(release, runs) == dict.fromkeys(runs, "1")
