"""The fault suite: the real service under load and a seeded schedule of faults, and an account at the end.

README.md explains it.
"""
