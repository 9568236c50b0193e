"""The processes of seeding: each writes chunks of random posts until its standard input ends.

Input: a line of JSON, `[database url, recipe]`, then a line for each chunk with its number. Each chunk is one transaction.
Output: a line for each chunk, `written` or an error. An error ends the process.
"""

import json
import os
import sys
from contextlib import suppress

from infra.postgres.errors import BadData, PostgresError
from infra.postgres.posts import Posts
from service.post_recipe import Recipe
from service.random_posts import RandomPosts
from service.seeding import WRITTEN


def main() -> None:
    url, fields = json.loads(sys.stdin.readline())
    chunks = RandomPosts(Recipe(**fields))
    try:
        with Posts(url).appending() as append:
            for line in iter(sys.stdin.readline, ""):
                append(chunks.chunk(int(line)))
                _answer(WRITTEN)
    except (PostgresError, BadData) as error:
        _answer(str(error))
        sys.exit(1)


def _answer(line: str) -> None:
    with suppress(BrokenPipeError):  # the parent has died; the input ends, too
        os.write(sys.stdout.fileno(), f"{line}\n".encode())


if __name__ == "__main__":
    main()
