"""A page to play with: drop a sound, see what is heard, watch its pictures grow.

    acgd app
    acgd app --port 7861 --outputs ~/pictures

It opens at http://127.0.0.1:7860 and is seen by this machine alone. With --host 0.0.0.0 others on
the network can use it too; they can upload sounds, but neither name nor read files of this machine.
Ends with Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import socket
from pathlib import Path
from typing import Any

from acgd.errors import UserError, say
from acgd.paths import at_home, command

LARGEST = "100mb"  # of an uploaded sound
FONTS = ["system-ui", "sans-serif"]
POLICY = "; ".join(  # nothing is fetched from elsewhere, whatever the library's templates name
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "worker-src 'self' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' ws: wss: data: blob:",
    )
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=f"{command()} app",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen at (127.0.0.1: this machine alone)")
    add("--port", type=int, default=7860, help="0: any that is free")
    add("--outputs", default="outputs", help="folder of all runs; the app's are in its app/")
    add("--share", action="store_true", help="also a public address, through Gradio's servers")
    options = parser.parse_args(arguments)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import gradio  # noqa: F401
    except ImportError:
        say("the app needs its extra: pip install 'acgd[app]'")
        return 1
    try:
        serve(options)
    except (UserError, OSError) as error:
        say(str(error))
        return 1
    return 0


def is_remote(host: str, share: bool) -> bool:
    """Whether others than this machine's user may come."""
    try:
        return share or not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def serve(options: argparse.Namespace) -> None:
    """Run the page until Ctrl-C."""
    from acgd.app.worker import Worker

    port = free_port(options.host, options.port)
    outputs = at_home(options.outputs)
    outputs.mkdir(parents=True, exist_ok=True)
    worker = Worker()  # it loads its models while the page is put together
    try:
        open_page(worker, outputs, options, port)
        print("Ctrl-C ends it.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            worker.wait()
    finally:
        worker.close()


def open_page(worker: Any, outputs: Path, options: argparse.Namespace, port: int) -> None:
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.routing import Mount

    from acgd.app.files import RunFiles
    from acgd.app.page import Page

    os.environ.setdefault("GRADIO_TEMP_DIR", str(outputs.absolute() / "app" / "uploads"))
    remote = is_remote(options.host, options.share)
    theme = gr.themes.Soft(font=FONTS, font_mono=["ui-monospace", "monospace"])
    blocks = Page(worker, outputs, remote).blocks()
    blocks.queue(max_size=32)
    app, address, public = blocks.launch(
        server_name=options.host,
        server_port=port,
        share=options.share,
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        max_file_size=LARGEST,
        allowed_paths=[str((outputs / "app" / "sounds").absolute())],  # those of earlier runs
        theme=theme,
        css_paths=Path(__file__).parent.parent / "app" / "page.css",
        footer_links=[],
        app_kwargs={"middleware": [Middleware(Guarded)], "docs_url": None, "redoc_url": None},
    )
    folder = outputs / "app" if remote else outputs
    app.router.routes.insert(0, Mount("/runs", RunFiles(outputs, folder)))
    print(f"acgd is at {public or address}", flush=True)


def free_port(host: str, port: int) -> int:
    """The port, or a free one for 0; UserError where it is taken or the address is none of ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"--host {host} --port {port}: {reason}; --port 0 takes any port that is free"
            ) from None
        return sock.getsockname()[1]


class Guarded:
    """Every answer says that nothing may be loaded from elsewhere."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        async def guarded(message: dict) -> None:
            if message["type"] == "http.response.start":
                headers = [(b"content-security-policy", POLICY.encode())]
                message["headers"] = [*message.get("headers", []), *headers]
            await send(message)

        await self.app(scope, receive, guarded if scope["type"] == "http" else send)
