"""The core: what a job is, which transitions it can make, when it is tried again. Pure; standard library only."""
