"""The core: jobs, their transitions and their retry policy. Pure; standard library only."""
