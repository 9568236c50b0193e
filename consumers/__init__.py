"""Work out: take deliveries, claim their jobs, do them, record what became of them; and the relay that publishes."""
