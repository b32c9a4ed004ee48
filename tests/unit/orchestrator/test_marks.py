"""What a flow run and its Job carry of a run: legal for Kubernetes, and the same after Prefect's worker had it."""

import re
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from orchestrator.marks import job_variables, label_value, labels, tags
from orchestrator.runs import CORRELATION_ID
from prefect_kubernetes.utilities import _slugify_label_key, _slugify_label_value

RUN_ID = UUID("0b5f0ac8-9a0e-4b8e-9a3b-6f0f6f1f6a11")
LEGAL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


@given(st.from_regex(CORRELATION_ID, fullmatch=True))
def test_any_correlation_id_makes_a_label(text: str) -> None:
    """Kubernetes takes it, and the worker changes nothing in it."""
    value = label_value(text)
    assert LEGAL.fullmatch(value)
    assert _slugify_label_value(value) == value


@given(st.from_regex(CORRELATION_ID, fullmatch=True), st.from_regex(CORRELATION_ID, fullmatch=True))
def test_two_ids_make_two_labels(one: str, other: str) -> None:
    """What is cut or replaced keeps a digest of the whole."""
    assert (label_value(one) == label_value(other)) == (one == other)


def test_an_id_that_is_a_label_already_stays() -> None:
    """So that it is found by itself; others keep their start."""
    assert label_value("order-7_a.b") == "order-7_a.b"
    assert label_value("0af7651916cd43dd8448eb211c80319c") == "0af7651916cd43dd8448eb211c80319c"
    assert re.fullmatch(r"order-7-[0-9a-f]{16}", label_value("order-7."))
    assert re.fullmatch(r"a-b-[0-9a-f]{16}", label_value("a--b"))
    assert re.fullmatch(r"a{46}-[0-9a-f]{16}", label_value("a" * 128))
    assert re.fullmatch(r"[0-9a-f]{16}", label_value("._-"))


def test_the_whole_id_is_kept_beside_the_label() -> None:
    """Tags, Prefect's labels and the annotation are not cut; keys stay as they are."""
    long = "a" * 128
    assert f"correlation-id:{long}" in tags(RUN_ID, long)
    assert labels(RUN_ID, long, None) == {"pipelines.run-id": str(RUN_ID), "pipelines.correlation-id": long}
    variables = job_variables(RUN_ID, long)
    assert variables["annotations.pipelines/correlation-id"] == long
    for name in variables:
        key = name.partition(".")[2]
        assert _slugify_label_key(key) == key
