"""The schema's history: revisions 0001, 0002, … Expand first, contract a release later."""
