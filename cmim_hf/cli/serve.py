# SPDX-License-Identifier: Apache-2.0
"""HTTP API and web page.

Answer requests over HTTP: those that clients of MolMIM's NIM send, and more under /v1/; /api lists
them, / is a page to try them. It listens to this machine alone unless told otherwise, and knows no
passwords. Ctrl-C or SIGTERM ends it when what runs is answered. Example: cmim serve --library
vectors.parquet --port 8080
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

from ..extras import needed
from .options import add_model_options
from .reports import say

if TYPE_CHECKING:
    from ..serving.request_metrics import RequestMetrics
    from ..serving.service import Service

WORDS = {
    "rows": "--max-rows",
    "characters": "--max-characters",
    "scored": "--max-scored",
    "seconds": "--max-seconds",
    "requests": "--max-requests",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen to; 0.0.0.0 lets everybody in who reaches this machine "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--library", help="embedded molecules to find neighbours in: what `cmim embed` wrote"
    )
    parser.add_argument("--predictor", help="a folder that fine-tuning wrote, for predictions")
    parser.add_argument(
        "--batch-size",
        type=int,
        help="codes decoded at once, if memory is short or plenty (default: 512 on a CPU, 4,096 "
        "elsewhere)",
    )
    limits = (
        ("rows", int, 1024, "molecules of a request, given or asked for"),
        ("characters", int, 1000, "of a SMILES"),
        ("scored", int, 10_000, "molecules that an optimisation scores"),
        ("seconds", float, 120.0, "until a request is given up"),
        ("requests", int, 64, "at once, a quarter of them optimisations"),
    )
    for name, kind, most, what in limits:
        parser.add_argument(
            f"--max-{name}", type=kind, default=most, help=f"{what} (default: %(default)s)"
        )
    add_model_options(parser)


def run(options: argparse.Namespace) -> None:
    """Load the model and answer requests until a signal comes."""
    with needed("A server", "serve"):
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    import torch

    from ..serving.request_metrics import RequestMetrics
    from ..serving.service import Limits, Service

    if "OMP_NUM_THREADS" not in os.environ:  # else the model's threads wait for each other
        torch.set_num_threads(max(1, torch.get_num_threads() - 1))  # one core is for requests
    limits = Limits(**{name: getattr(options, f"max_{name}") for name in Limits.__annotations__})
    listener = _bound(options.host, options.port)
    metrics = RequestMetrics()
    with listener:  # taken already: a model is not loaded for nothing
        service = Service(
            options.checkpoint,
            device=options.device,
            dtype=options.dtype,
            batch_size=options.batch_size,
            library=options.library,
            predictor=options.predictor,
            limits=limits,
            watch=metrics.batch,
        )
        service.warm_up()
        _answer(options.host, listener, service, metrics)
    say("Ended.")


def _answer(host: str, listener: socket.socket, service: Service, metrics: RequestMetrics) -> None:
    """Serve until a signal comes, and finish what runs then."""
    import uvicorn

    from ..serving.app import LOOPBACK, make_app

    # a thread that scores molecules shall not keep the model's from its next step for 5 ms
    sys.setswitchinterval(5e-4)
    address, port = listener.getsockname()[:2]
    config = uvicorn.Config(
        make_app(service, metrics, (*LOOPBACK, host) if address in LOOPBACK else ("*",)),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=int(service.limits.seconds) + 5,
    )
    # uvicorn sends itself the signal again that ended it
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    place = f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
    say(f"Serving {service.name} at {place} (the API is described at {place}/api).")
    uvicorn.Server(config).run(sockets=[listener])


def _bound(host: str, port: int) -> socket.socket:
    """A socket at an address; it does not listen yet."""
    if not 0 <= port <= 65535:
        raise ValueError(f"`port` is a number from 0 to 65535, not {port}.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ValueError(f"There is no address {host!r} with port {port}: {error}.") from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except (OSError, OverflowError) as error:
        found.close()
        raise ValueError(
            f"The server cannot listen to port {port} of {host}: {error}. Give another --port."
        ) from error
    return found
