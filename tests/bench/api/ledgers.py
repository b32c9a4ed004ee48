"""What a ledger is filled with before it is asked: SQL that makes runs which are over."""

from collections.abc import Sequence


def many_runs(count: int, *, pipelines: Sequence[str] = ("etl",)) -> tuple[str, ...]:
    """Statements that make runs of a few years, all of them over, each with its two events, and statistics on them."""
    names = ", ".join(f"'{name}'" for name in pipelines)
    return (
        f"""
        INSERT INTO runs (run_id, pipeline, flow_run_id, logical_date, state, state_name, message, parameters, origin,
            correlation_id, accepted_at, dispatched_at, started_at, ended_at, dispatch_attempts)
        SELECT md5('run' || n)::uuid, (ARRAY[{names}])[1 + n % {len(pipelines)}], md5('flow run' || n)::uuid,
            date '2020-01-01' + n % 2000,
            CASE WHEN n % 50 = 0 THEN 'Failed' ELSE 'Completed' END,
            CASE WHEN n % 50 = 0 THEN 'Failed' ELSE 'Completed' END,
            'loaded', '{{}}', 'api', md5('correlation' || n), accepted, accepted + interval '1 s',
            accepted + interval '5 s', accepted + interval '30 s', 1
        FROM (SELECT n, now() - n * interval '1 min' AS accepted FROM generate_series(1, {count}) AS n) AS made
        """,
        """
        INSERT INTO run_events (run_id, pipeline, kind, at, state, state_name, message, duration_ms)
        SELECT run_id, pipeline, kind, at, state, state, message, duration_ms FROM (
            SELECT run_id, pipeline, 'submitted' AS kind, accepted_at AS at, 'Scheduled' AS state,
                NULL AS message, NULL::bigint AS duration_ms FROM runs
            UNION ALL SELECT run_id, pipeline, 'ended', ended_at, state, message, 25000 FROM runs) AS told ORDER BY at
        """,
        "VACUUM ANALYZE runs, run_events",
    )


def a_year(pipelines: Sequence[str]) -> tuple[str, ...]:
    """Statements that make a run of each of the last 365 days for each pipeline, one in twenty of them Failed."""
    names = ", ".join(f"'{name}'" for name in pipelines)
    return (
        f"""
        INSERT INTO runs (run_id, pipeline, flow_run_id, logical_date, state, state_name, message, parameters, origin,
            correlation_id, accepted_at, dispatched_at, started_at, ended_at, dispatch_attempts)
        SELECT md5('run/' || name || '/' || day)::uuid, name, md5('flow run/' || name || '/' || day)::uuid,
            current_date - day,
            CASE WHEN day % 20 = 0 THEN 'Failed' ELSE 'Completed' END,
            CASE WHEN day % 20 = 0 THEN 'Failed' ELSE 'Completed' END,
            'loaded', '{{}}', 'schedule', md5('correlation/' || name || '/' || day), begun, begun, begun,
            begun + interval '30 s', 1
        FROM unnest(ARRAY[{names}]) AS name, generate_series(1, 365) AS day,
            LATERAL (SELECT now() - day * interval '1 day' AS begun) AS moment
        """,
        "VACUUM ANALYZE runs",
    )


def pipelines_told(count: int) -> list[dict[str, str]]:
    """That many pipelines, as the orchestrator is told of them: `etl` and others."""
    others = [{"name": f"etl-{number}", "deployment": f"bench/bench-{number}"} for number in range(1, count)]
    return [{"name": "etl", "deployment": "bench/bench"}, *others]
