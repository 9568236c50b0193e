"""`posthaste rabbitmq-user`: the RabbitMQ user of the service, limited to its namespace."""

from cli.session import read_settings
from cli.terminal import exit_on, fail, say
from infra.rabbitmq.topology import permission
from infra.rabbitmq.user import UserNotCreated, create_user
from service.settings import PREFIX


def rabbitmq_user() -> None:
    """Create or update the RabbitMQ user of POSTHASTE_AMQP_URL, limited to the namespace."""
    settings = read_settings()
    if settings.management_url is None:
        fail(f"{PREFIX}MANAGEMENT_URL is not set: set it to an administrator's URL", 2)
    with exit_on(UserNotCreated):
        name = create_user(settings.management_url, settings.amqp_url, settings.namespace)
    say(f"rabbitmq: the user {name} may use {permission(settings.namespace)}")
