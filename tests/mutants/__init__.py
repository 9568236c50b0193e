"""Mutants of the SQL conditions: each statement is changed in one place, and a test must fail (`make mutants`)."""
