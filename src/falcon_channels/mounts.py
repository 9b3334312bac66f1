"""What `Channels` adds to an application besides the doors of the client protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from typing import cast
from typing import TYPE_CHECKING

import falcon.asgi

from falcon_channels.errors import ExtraMissingError
from falcon_channels.errors import OptionsError
from falcon_channels.server_api.resource import mount_api

if TYPE_CHECKING:
    from falcon_channels.channels import Channels


def need_asgi(app: object, method: str) -> None:
    """Refuse what is not an ASGI app, before Falcon speaks of responders of ours.

    Raises:
        OptionsError: It is not.
    """
    if not isinstance(app, falcon.asgi.App):
        raise OptionsError(
            f'{method} needs a falcon.asgi.App, not {type(app).__name__}: beside a '
            'WSGI app, run an ASGI app with it on the same broker'
        )


class Mounts:
    """The part of `Channels` that back ends and operators see."""

    def add_api(
        self,
        app: falcon.asgi.App[Any, Any],
        *,
        keys: str | Sequence[str],
        prefix: str = '/api',
        max_body_bytes: int = 1048576,
    ) -> None:
        """Let back ends publish, ask and steer over HTTP; see docs/server_api.md.

        Args:
            app: Gets the route ``{prefix}/{method}``.
            keys: Secrets of which a caller sends one; several, to change them.
            prefix: Path before the methods' names.
            max_body_bytes: Largest request.

        Raises:
            OptionsError: There is no key, one is too short, or it is not an ASGI app.
        """
        need_asgi(app, 'add_api')
        mount_api(cast('Channels', self), app, keys, prefix, max_body_bytes)

    def add_metrics(
        self,
        app: falcon.asgi.App[Any, Any],
        path: str = '/metrics',
        *,
        all_processes: bool = False,
    ) -> None:
        """Show figures to Prometheus; see docs/metrics.md.

        Args:
            app: Gets the route.
            path: Of the page; keep it from the public.
            all_processes: One page for all processes that share the broker, with a
                label ``node``: for workers behind one port.

        Raises:
            ExtraMissingError: Install falcon-channels[metrics].
            OptionsError: It is not an ASGI app.
        """
        need_asgi(app, 'add_metrics')
        # NOTE: imported here, for prometheus-client is an optional extra.
        try:
            from falcon_channels.monitoring.prometheus import mount_metrics
        except ImportError:
            raise ExtraMissingError('add_metrics', 'metrics') from None
        mount_metrics(cast('Channels', self), app, path, all_processes)
