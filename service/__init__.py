"""The use cases that api, consumers and cli share: accept, publish, record, statuses, subscriptions, dead letters."""
