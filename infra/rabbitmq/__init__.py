"""RabbitMQ: the topology as data, the connection, the publisher with confirms, and the consumer."""
