"""Requests that nobody thought of: schemathesis calls every operation as the OpenAPI document says, and as it does not."""
