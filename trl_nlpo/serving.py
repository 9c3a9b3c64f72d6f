"""A page on this machine, or with a token for others: how all our Gradio pages are served.

Written against Gradio 6.31; only its public names are used.
"""

from __future__ import annotations

import hmac
from typing import Any

from .errors import UserError


def check_address(host: str, token: str | None, variable: str) -> None:
    """Refuse to serve to other machines without a token.

    Args:
        host (`str`), token (`str`, *optional*)
        variable (`str`): of the environment, which can hold the token.

    Raises:
        UserError: so it is.
    """
    if host not in ("127.0.0.1", "localhost", "::1") and not token:
        raise UserError(
            f"serving on {host} needs a token, so that not everybody on the network gets in: give --token, or the "
            f"environment variable {variable}."
        )


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
        raise UserError(f"port {port} of {host} cannot be used: {error}.") from error
