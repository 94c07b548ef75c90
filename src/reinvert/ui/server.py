"""Serves the page: on this machine alone unless told otherwise, and nothing is sent anywhere."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from reinvert.errors import ReinvertError

LARGEST_UPLOAD: Final = "200mb"
POLICY: Final = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'self'"
)
"""What the browser may load: from this server and from nowhere else."""


@dataclass(frozen=True)
class Address:
    """Where the page is served, and to whom. A public host is refused without a user and a password."""

    host: str = "127.0.0.1"
    port: int | None = None
    auth: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if self.port is not None and not 1 <= self.port <= 65535:
            raise ReinvertError(f"--port is a number from 1 to 65535, not {self.port}")
        if not is_local(self.host) and self.auth is None:
            raise ReinvertError(
                f"{self.host} can be reached from other machines: give --auth USER:PASSWORD, or leave --host out"
            )


def is_local(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_auth(text: str) -> tuple[str, str]:
    """USER:PASSWORD."""
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise ReinvertError("--auth takes USER:PASSWORD")
    return user, password


def serve(models: Sequence[str], address: Address, device: str, dtype: str, *, wait: bool = True, browser: bool) -> Any:
    """Serve until interrupted; with `wait` False the running server: its `local_url`, `house` and `close()`."""
    for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "GRADIO_RUN_HISTORY"):
        os.environ[name] = "1" if name.startswith("HF") else "False"
    try:
        import gradio as gr
    except ImportError as error:
        raise ReinvertError("the studio needs Gradio: pip install 'reinvert[studio]'") from error
    from reinvert.ui.house import House
    from reinvert.ui.page import build, theme
    from reinvert.ui.texts import CSS, JS

    house = House(models, device, dtype)
    os.environ["GRADIO_TEMP_DIR"] = str(house.uploads)
    try:
        gr.set_static_paths([house.folder])
        page = build(house)
        page.queue(default_concurrency_limit=None, max_size=None)
        try:
            page.launch(
                server_name=address.host,
                server_port=address.port,
                auth=address.auth,
                share=False,
                inbrowser=browser,
                quiet=True,
                prevent_thread_lock=True,
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                max_file_size=LARGEST_UPLOAD,
                theme=theme(),
                css=CSS,
                js=JS,
            )
        except OSError as error:
            where = "" if address.port is None else f" {address.port}"
            raise ReinvertError(f"the port{where} is taken; choose another with --port") from error
        _only_from_here(page.app)
        house.shelf.preload()
        running = Running(page, house)
        if wait:
            running.wait()
        return running
    except BaseException:
        house.close()
        raise


def _only_from_here(app: Any) -> None:
    """Send the policy with every answer."""
    from starlette.requests import ClientDisconnect

    inner = app.middleware_stack or app.build_middleware_stack()

    async def stack(scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            await send(message)

        try:
            await inner(scope, receive, with_policy if scope["type"] == "http" else send)
        except ClientDisconnect:  # a browser that left in the midst of a question needs no answer
            return
        except RuntimeError as error:  # nor one that left while its pictures were sent, which are gone then
            if not isinstance(error.__context__, FileNotFoundError):
                raise

    app.middleware_stack = stack


class Running:
    """A server that runs in threads of its own."""

    def __init__(self, page: Any, house: Any) -> None:
        self.page, self.house = page, house

    @property
    def local_url(self) -> str:
        return self.page.local_url

    def wait(self) -> None:
        """Until interrupted (Ctrl-C, or SIGTERM)."""
        import signal
        import threading

        over = threading.Event()

        def end(number: int, frame: Any) -> None:
            over.set()

        before = signal.signal(signal.SIGTERM, end)
        try:
            while not over.wait(0.5):
                pass
        except KeyboardInterrupt:
            pass
        finally:
            signal.signal(signal.SIGTERM, before)
            self.close()

    def close(self) -> None:
        """Stop serving and remove all files."""
        self.page.close(verbose=False)
        self.house.close()
