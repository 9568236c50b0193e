"""Reports: words by user over one snapshot of the posts, counted by partitions in other processes; docs/decisions/0020."""

import os

# NumPy is imported later. Its threads are for algebra, which nothing here needs, and slow to start.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
