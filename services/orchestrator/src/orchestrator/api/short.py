"""The short way through FastAPI for the plainest requests of a route: those that nothing can be wrong with.

Finding a route's arguments by its signature costs FastAPI more than finding a run in the ledger costs us. A route may
bring a function that finds them itself, for the requests it is sure of. All others go the long way, which alone says
what is wrong with one; the route and its description are the same on both.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

Endpoint = Callable[..., Awaitable[Response]]
# A route's arguments; None for a request that must go the long way.
Find = Callable[[Request], Awaitable[Mapping[str, Any] | None]]

_FOUND_BY: dict[Endpoint, Find] = {}


def arguments_by(find: Find) -> Callable[[Endpoint], Endpoint]:
    """Decorates a route's function, beneath the route, with what finds its arguments in plain requests."""

    def kept(endpoint: Endpoint) -> Endpoint:
        _FOUND_BY[endpoint] = find
        return endpoint

    return kept


class ShortRoute(APIRoute):
    """A route that takes the short way where there is one."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """As FastAPI's."""
        the_long_way = super().get_route_handler()
        endpoint: Endpoint = self.endpoint
        find = _FOUND_BY.get(endpoint)
        if find is None:
            return the_long_way

        async def handle(request: Request) -> Response:
            arguments = await find(request)
            return await (the_long_way(request) if arguments is None else endpoint(**arguments))

        return handle
