"""The revisions of the schema: 0001, 0002, … Expand first, contract a release later."""
