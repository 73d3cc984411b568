"""Services for the tests of what backends/ keeps outside this process."""

from tests.fakes.redis_fixtures import proxy, servers

__all__ = ["proxy", "servers"]
