"""`reinvert studio`: edit in the browser."""

from __future__ import annotations

import argparse

from reinvert.cli.common import DEFAULT_MODEL
from reinvert.cli.terminal import say
from reinvert.models import check_device, check_dtype, check_name
from reinvert.values import positive


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `reinvert studio`."""
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="a model that the page offers: picturebook, a folder in diffusers format, FILE.safetensors, or a Hub id; "
        f"may be given several times, and one is held at a time [{DEFAULT_MODEL}]",
    )
    parser.add_argument("--host", default="127.0.0.1", help="who may reach it [127.0.0.1: this machine alone]")
    parser.add_argument("--port", type=positive, metavar="N", help="[the first free one from 7860 on]")
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="ask for a password; needed where others reach it")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps [auto]")
    parser.add_argument("--dtype", default="auto", help="auto, float64, float32, bfloat16 or float16 [auto]")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")


def run(args: argparse.Namespace) -> int:
    from reinvert.ui.server import Address, read_auth, serve

    models = args.model or [DEFAULT_MODEL]
    for name in models:
        check_name(name)
    check_device(args.device)
    check_dtype(args.dtype)
    address = Address(args.host, args.port, None if args.auth is None else read_auth(args.auth))
    running = serve(models, address, args.device, args.dtype, wait=False, browser=args.open)
    say(f"reinvert studio is at {running.local_url} (Ctrl-C ends it)")
    running.wait()
    return 0
