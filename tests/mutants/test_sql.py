"""The mutants of a statement: each differs in one place."""

import pytest

from tests.mutants.sql import mutants


@pytest.mark.parametrize(
    ("sql", "changes"),
    [
        ("DELETE FROM a WHERE x = 1", {"DELETE FROM a WHERE true", "DELETE FROM a WHERE x <> 1"}),
        (
            "WHERE x < 1 AND y IS NULL LIMIT 2",
            {"WHERE y IS NULL LIMIT 2", "WHERE x < 1 LIMIT 2", "WHERE x >= 1 AND y IS NULL LIMIT 2"},
        ),
        ("UPDATE a SET x = 1, y = f(2, 3) WHERE z", {"UPDATE a SET y = f(2, 3) WHERE z", "UPDATE a SET x = 1 WHERE z"}),
        ("s IN ('failed', 'unknown')", {"s IN ('failed')", "s IN ('unknown')"}),
        ("SELECT x FROM a ORDER BY x DESC LIMIT 1", {"SELECT x FROM a LIMIT 1", "SELECT x FROM a ORDER BY x LIMIT 1"}),
        ("SELECT CASE WHEN a THEN 0 ELSE b END", {"SELECT 0", "SELECT b"}),
        ("coalesce(:c, d)", {":c", "d"}),
        ("WHERE NOT EXISTS (SELECT FROM o WHERE o.id = j.id)", {"WHERE EXISTS (SELECT FROM o WHERE o.id = j.id)"}),
        ("FOR UPDATE SKIP LOCKED", {"FOR UPDATE"}),
        ("INSERT INTO a SELECT 1", set()),
    ],
)
def test_each_mutant_differs_in_one_place(sql: str, changes: set[str]) -> None:
    texts = {" ".join(mutant.text.split()) for mutant in mutants(sql)}
    assert changes <= texts and sql not in texts
    assert changes or not texts
