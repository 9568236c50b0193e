"""The mutants of one piece of SQL: a condition is dropped or flipped, an assignment is dropped, a choice is fixed."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(r"'[^']*'|\{[^{}]*\}|:?\w+(?:\.\w+)*|<>|<=|>=|\|\||[^\s]")
_CONDITION_STARTS = {"WHERE", "ON", "AND"}
_CONDITION_ENDS = {"AND", "OR", "ORDER", "LIMIT", "FOR", "GROUP", "RETURNING", "JOIN", "LEFT", "WHERE", "ON", "UNION", ","}
_ASSIGNMENT_ENDS = {"FROM", "WHERE", "RETURNING"}
_FLIPS = {"=": "<>", "<>": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_DROPS = ("ON CONFLICT DO NOTHING", "ON CONFLICT (id) DO NOTHING", "SKIP LOCKED", " DESC", "NOT EXISTS")


@dataclass(frozen=True, slots=True)
class Token:
    text: str
    start: int
    end: int
    depth: int


@dataclass(frozen=True, slots=True)
class Mutant:
    """`text` is the whole piece with one change; `change` shows it; `offset` is where it is."""

    text: str
    change: str
    offset: int


def mutants(sql: str) -> list[Mutant]:
    """Every mutant of the piece, without those that are equal."""
    tokens = _tokens(sql)
    found = [
        *_conditions(sql, tokens),
        *_nothing(sql, tokens),
        *_assignments(sql, tokens),
        *_members(sql),
        *_orders(sql),
        *_choices(sql),
        *_drops(sql),
    ]
    return list({mutant.text: mutant for mutant in found if mutant.text != sql}.values())


def _tokens(sql: str) -> list[Token]:
    found, depth = [], 0
    for match in _TOKEN.finditer(sql):
        depth -= match.group() == ")"
        found.append(Token(match.group(), match.start(), match.end(), depth))
        depth += match.group() == "("
    return found


def _until(tokens: list[Token], begin: int, ends: set[str]) -> int:
    """The index of the first token from `begin` on that ends what began at its depth."""
    depth = tokens[begin - 1].depth
    for index in range(begin, len(tokens)):
        if tokens[index].depth < depth or (tokens[index].depth == depth and tokens[index].text in ends):
            return index
    return len(tokens)


def _changed(sql: str, start: int, end: int, by: str, description: str = "") -> Mutant:
    text = description or f"{' '.join(sql[start:end].split())!r} → {by.strip()!r}"
    return Mutant(sql[:start] + by + sql[end:], text, start)


def _conditions(sql: str, tokens: list[Token]) -> Iterator[Mutant]:
    for index, token in enumerate(tokens[:-1]):
        if token.text not in _CONDITION_STARTS or tokens[index + 1].text == "CONFLICT":
            continue
        last = _until(tokens, index + 1, _CONDITION_ENDS)
        start, end = tokens[index + 1].start, tokens[last - 1].end
        followed = last < len(tokens) and tokens[last].text == "AND" and tokens[last].depth == token.depth
        if token.text == "AND":
            yield _changed(sql, token.start, end, "")
        elif followed:
            yield _changed(sql, start, tokens[last].end, "")
        else:
            yield _changed(sql, start, end, "true")
        yield from _flips(sql, tokens[index + 1 : last])


def _flips(sql: str, condition: list[Token]) -> Iterator[Mutant]:
    text = sql[condition[0].start : condition[-1].end] if condition else ""
    for token, following in zip(condition, [*condition[1:], None], strict=True):
        if token.depth == condition[0].depth and token.text in _FLIPS:
            yield _changed(sql, token.start, token.end, _FLIPS[token.text], f"{token.text} → {_FLIPS[token.text]} in {text!r}")
        if token.text == "IS" and following is not None:
            by = "IS" if following.text == "NOT" else "IS NOT"
            end = following.end if following.text == "NOT" else token.end
            yield _changed(sql, token.start, end, by, f"IS [NOT] in {text!r}")


def _nothing(sql: str, tokens: list[Token]) -> Iterator[Mutant]:
    for token in tokens:
        if token.text == "WHERE":
            line = sql[token.start :].splitlines()[0]
            yield _changed(sql, token.end, token.end, " false AND", f"no row fits {line!r}")


def _assignments(sql: str, tokens: list[Token]) -> Iterator[Mutant]:
    for index, token in enumerate(tokens):
        if token.text != "SET":
            continue
        last = _until(tokens, index + 1, _ASSIGNMENT_ENDS)
        commas = [i for i in range(index + 1, last) if tokens[i].text == "," and tokens[i].depth == token.depth]
        starts, ends = [index + 1, *(i + 1 for i in commas)], [*commas, last]
        for start, end in zip(starts, ends, strict=True) if commas else ():
            begin, stop = (
                (tokens[start].start, tokens[end].end) if end != last else (tokens[start - 1].start, tokens[end - 1].end)
            )
            yield _changed(sql, begin, stop, "")


def _members(sql: str) -> Iterator[Mutant]:
    for listed in re.finditer(r"IN \((('\w+'(, )?){2,})\)", sql):
        for member in re.finditer(r"'\w+'", listed.group(1)):
            rest = ", ".join(other for other in re.findall(r"'\w+'", listed.group(1)) if other != member.group())
            yield _changed(sql, listed.start(1), listed.end(1), rest)


def _orders(sql: str) -> Iterator[Mutant]:
    for order in re.finditer(r"ORDER BY [^()]*?(?=\s*LIMIT)", sql):
        yield _changed(sql, order.start(), order.end(), "")


def _choices(sql: str) -> Iterator[Mutant]:
    for case in re.finditer(r"CASE WHEN (?:(?!CASE).)*? THEN ((?:(?!CASE).)*?)(?: ELSE ((?:(?!CASE).)*?))? END", sql):
        for branch in (case.group(1), case.group(2) or "NULL"):
            yield _changed(sql, case.start(), case.end(), branch)
    for call in re.finditer(r"coalesce\(([^(),]+), ([^(),]+)\)", sql):
        for argument in call.groups():
            yield _changed(sql, call.start(), call.end(), argument)


def _drops(sql: str) -> Iterator[Mutant]:
    for words in _DROPS:
        for match in re.finditer(re.escape(words), sql):
            yield _changed(sql, match.start(), match.end(), "EXISTS" if words == "NOT EXISTS" else "")
