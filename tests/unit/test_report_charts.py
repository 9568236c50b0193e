"""The charts of a report stay in their frame, for any numbers."""

from hypothesis import given
from hypothesis import strategies as st

from api.console.report_charts import WIDTH, Chart, histogram_chart, users_chart
from infra.postgres.results import Total

TOP = st.lists(st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**62)), max_size=12)
LENGTHS = st.dictionaries(st.integers(0, 10**6), st.integers(1, 10**12), max_size=60)


def _assert_in_frame(chart: Chart) -> None:
    for bar in chart.bars:
        assert bar.x >= 0 and bar.x + bar.width <= WIDTH + 0.1
        assert bar.y >= 0 and bar.height >= 0 and bar.y + bar.height <= chart.height


@given(TOP)
def test_users(rows: list[tuple[int, int]]) -> None:
    top = [Total(user, user, words) for user, words in sorted(rows, key=lambda row: -row[1])]
    chart = users_chart(top)
    _assert_in_frame(chart)
    assert [(bar.label, bar.value) for bar in chart.bars] == [(str(row.user_id), f"{row.words:,}") for row in top]
    widths = [bar.width for bar in chart.bars]
    assert widths == sorted(widths, reverse=True)


@given(LENGTHS)
def test_histogram(lengths: dict[int, int]) -> None:
    chart = histogram_chart(list(lengths.items()))
    _assert_in_frame(chart)
    assert sum(int(bar.value.replace(",", "")) for bar in chart.bars) == sum(lengths.values())
    assert 2 <= len(chart.ticks) <= 6 and chart.ticks[0][1] == "0"
    highest = max((int(bar.value.replace(",", "")) for bar in chart.bars), default=0)
    assert int(chart.ticks[-1][1].replace(",", "")) >= highest
    assert sum(bool(bar.tick) for bar in chart.bars) <= 8 + 1


def test_the_description_names_the_highest_bar() -> None:
    assert (
        users_chart([Total(3, 3, 1200), Total(1, 1, 7)]).description == "A bar for each user. User 3 has the most words: 1,200."
    )
    assert histogram_chart([(3, 1), (4, 9)]).description == "A bar for each range of words. The most posts have 4 words: 9."
    assert histogram_chart([]).description == "There are no posts."


def test_an_open_bin_has_a_label_and_room() -> None:
    chart = histogram_chart([*((words, 100) for words in range(95)), (5000, 2)])
    assert chart.bars[-1].tick == "95+" and not any(bar.tick for bar in chart.bars[-3:-1])
