"""A server of which nothing is known but that it speaks HTTP: any answer that is no server error is well."""

from backends.engines.engine import Engine, HealthEndpoint, never, told_by_status

ENGINE = Engine(
    HealthEndpoint("/health", range(200, 500)),
    never,
    lambda status, _body: told_by_status(status),
    asks_while_well=False,
)
