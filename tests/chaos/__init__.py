"""Proof that nothing is lost: the real service under load and a seeded schedule of faults, and an account at the end.

`make chaos` is the short run, `make soak MINUTES=10 SEED=7` a long one. docs/guarantees.md says what is promised.
"""
