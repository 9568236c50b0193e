"""The plan of a report: the ranges of ids of its partitions."""

MOST_POSTS = 100_000  # of a partition: it takes a fraction of a second, and its result fits into one row
FEWEST_POSTS = 2_000  # below, the round trips of a partition cost more than its posts
PARTITIONS_PER_LANE = 4  # so that lanes end at about the same time
MOST_PARTITIONS = 10_000


def plan(low: int | None, high: int | None, estimate: int | None, lanes: int) -> list[int]:
    """The bounds of the partitions of the posts with ids in [`low`, `high`]; None: there are no posts.

    Partition n has the ids above bounds[n], up to bounds[n + 1]. All ranges have about the same length. `estimate`: the number
    of posts; None: as many as ids. An estimate that is wrong, and ids with gaps, make the partitions uneven, never wrong.
    """
    if low is None or high is None:
        return [0]
    ids = high - low + 1
    posts = ids if estimate is None else max(1, min(estimate, ids))
    enough_for_lanes = min(PARTITIONS_PER_LANE * lanes, posts // FEWEST_POSTS)
    count = min(max(-(-posts // MOST_POSTS), enough_for_lanes, 1), MOST_PARTITIONS, ids)
    return [low - 1 + ids * n // count for n in range(count + 1)]
