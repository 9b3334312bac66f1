"""Requests that our server answers without Falcon.

A request of a back end to the server API needs no request object, no middleware and no
response object. They cost more than most methods. Our server therefore asks a resource
of this kind whether it can answer a request alone. Everything else goes to Falcon, as
on other servers: each request that is unusual or refused, and all requests if the app
has middleware for HTTP.
"""

from __future__ import annotations

from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Mapping
from typing import Protocol
from typing import runtime_checkable

#: Answers a request: it gets the body, and returns the body of the response in JSON.
Answer = Callable[[bytes], Awaitable[bytes]]


@runtime_checkable
class DirectResource(Protocol):
    """A Falcon resource whose ``on_post`` the server may replace by `direct_answer`.

    The status of each answer is 200. No cache may store it.
    """

    #: Size in bytes of the largest body. Falcon gets each larger one.
    max_body_bytes: int

    def direct_answer(
        self, params: Mapping[str, str], headers: Mapping[bytes, bytes]
    ) -> Answer | None:
        """Return the function that answers a request, before its body is known.

        Args:
            params: Values of the fields of the route.
            headers: Names in lower case, and values. Each name is there once.

        Returns:
            ``None`` if Falcon has to answer, for example with a refusal.
        """
