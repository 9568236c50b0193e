"""Reports: words by user over one snapshot of the posts, counted by partitions in other processes; docs/decisions/0020."""
