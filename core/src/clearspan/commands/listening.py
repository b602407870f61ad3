"""The socket that the web server listens on."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

from clearspan.platform.runtime import OperatorError, with_public_url
from clearspan.settings import ServerSettings, Settings


@contextlib.contextmanager
def bound(server: ServerSettings) -> Iterator[socket.socket]:
    """The socket to listen on, bound before anything else is started.

    Raises:
        OperatorError: the port is in use, or the host is none of this machine's.
    """
    with contextlib.ExitStack() as stack:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = stack.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise taken(server) from error
            raise OperatorError(
                f"Cannot listen on {server.host} port {server.port}: {error.strerror or error}. Set server.host to an address"
                " of this machine (127.0.0.1, or 0.0.0.0 for all) and server.port to a free port above 1023."
            ) from error
        yield listener


def taken(server: ServerSettings) -> OperatorError:
    """The refusal of a port that another program listens on."""
    return OperatorError(
        f"Port {server.port} of {server.host} is in use by another program. Stop that program, or set server.port"
        " (CLEARSPAN_SERVER_PORT) to another port; 0 takes a free one."
    )


def with_own_url(settings: Settings, listener: socket.socket) -> Settings:
    """The settings with ``public_url``, which is not known before when the port is a free one."""
    if settings.server.public_url:
        return settings
    host = settings.server.host
    return with_public_url(settings, f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}")
