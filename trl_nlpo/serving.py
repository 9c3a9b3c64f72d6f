"""A page on this machine, or with a token for others: how all our Gradio pages are served.

Written against Gradio 6.31; only its public names are used.
"""

from __future__ import annotations

import errno
import hmac
import socket
from typing import Any

from .errors import UserError


def check_address(host: str, port: int | None, token: str | None, variable: str) -> None:
    """Refuse, before anything is loaded, to serve to other machines without a token or on a port that is taken.

    Args:
        host (`str`), port (`int`, *optional*), token (`str`, *optional*)
        variable (`str`): of the environment, which can hold the token.

    Raises:
        UserError: so it is.
    """
    if host not in ("127.0.0.1", "localhost", "::1") and not token:
        raise UserError(
            f"serving on {host} needs a token, so that not everybody on the network gets in: give --token, or the "
            f"environment variable {variable}."
        )
    if port is not None:
        _check_port(host, port)


def _check_port(host: str, port: int) -> None:
    """Refuse a port that is taken, or not for everybody; what else is wrong with an address, its server says."""
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            # As servers do: a port that was in use a moment ago is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise _unusable(host, port, error) from error


def _unusable(host: str, port: int | None, error: OSError) -> UserError:
    return UserError(f"port {port} of {host} cannot be used: {error}.")


def launch(
    page: Any, host: str, port: int | None, token: str | None, waits: bool, welcome: str, **options: Any
) -> None:
    """Serve a page.

    Args:
        page: Gradio's blocks.
        host (`str`), port (`int`, *optional*): by default the first free one from 7860.
        token (`str`, *optional*): what people must know to get in, beside any name.
        waits (`bool`): return when the page is closed, or at once.
        welcome (`str`): what stands above name and token.
        options: of `launch`.

    Raises:
        UserError: the port is taken.
    """

    def knows(name: str, word: str) -> bool:
        return bool(name.strip()) and hmac.compare_digest(word.encode(), str(token).encode())

    try:
        page.launch(
            server_name=host,
            server_port=port,
            auth=None if token is None else knows,
            auth_message=None if token is None else welcome,
            prevent_thread_lock=not waits,
            quiet=True,
            share=False,
            show_error=True,
            footer_links=[],
            ssr_mode=False,
            **options,
        )
    except OSError as error:
        raise _unusable(host, port, error) from error
