"""Work out: workers claim jobs, execute them and record their outcomes; the relay publishes."""
