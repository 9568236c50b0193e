"""Any JSON becomes a valid model or a problem that names each bad field."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from api.models import BatchIn, DeadLetterBatch, DeadLetterRequeue, MessageIn, ReportIn
from api.problems import Problem, describe
from api.requests import _parse, validated

MODELS: list[type[BaseModel]] = [MessageIn, ReportIn, BatchIn, DeadLetterBatch, DeadLetterRequeue]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet=st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = sorted({name for model in MODELS for name in model.model_fields} | {"filter", "nothing", ""})


@pytest.mark.parametrize("model", MODELS)
@given(fields=st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=6) | ANYTHING)
def test_any_value_is_a_model_or_a_problem(model: type[BaseModel], fields: Any) -> None:
    try:
        found = validated(fields, model)
    except Problem as problem:
        assert (problem.status, problem.code) == (422, "validation")
        assert problem.errors and all(error.detail for error in problem.errors)
        orjson.dumps(describe(problem))  # it can be sent
        return
    if model is not BatchIn:  # it passes its items on unread: each is validated by itself
        assert "\\u0000" not in orjson.dumps(found.model_dump(mode="json")).decode()


@given(
    body=st.binary(max_size=60) | ANYTHING.map(lambda value: json.dumps(value).encode()) | st.text(max_size=60).map(str.encode)
)
def test_any_bytes_are_json_or_a_problem(body: bytes) -> None:
    try:
        fields = _parse(body)
    except Problem as problem:
        assert problem.status == 400 and problem.detail
        orjson.dumps(describe(problem))
        return
    assert json.dumps(fields) is not None


@given(pairs=st.lists(st.tuples(st.text(max_size=3), st.integers(0, 3)), min_size=1, max_size=5))
def test_a_duplicate_field_is_refused_at_any_depth(pairs: list[tuple[str, int]]) -> None:
    inside = "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in pairs) + "}"
    repeated = len({name for name, _ in pairs}) < len(pairs)
    for text in (inside, f"[{inside}]", f'{{"a": [{inside}]}}'):
        try:
            _parse(text.encode())
        except Problem as problem:
            assert repeated and problem.code == "repeated_field"
        else:
            assert not repeated
