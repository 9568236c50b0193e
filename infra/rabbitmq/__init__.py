"""RabbitMQ: topology as data, a connection that is rebuilt whole, a publisher that waits for confirms, and consumers."""
