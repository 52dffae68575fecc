# SPDX-License-Identifier: Apache-2.0
"""The web application: routes, limits, metrics and the page. [`make_app`]."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..version import __version__
from . import molmim_routes, routes
from .calls import Calls
from .request_metrics import RequestMetrics
from .service import Service

PAGE = Path(__file__).parent / "page"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_NUMBER_CHARACTERS = 25  # of a number of a code, as JSON
_BODY_SECONDS = 30.0
_ERRORS_SHOWN = 5


def make_app(
    service: Service, metrics: RequestMetrics | None = None, hosts: tuple[str, ...] = ("*",)
) -> FastAPI:
    """The application that answers for a service; when it ends, it closes that.

    Args:
        service: The models and limits.
        metrics: What its batches are told to, too.
        hosts: Names by which clients may call the server; `LOOPBACK` keeps out pages of the web
            that a browser on this machine shows.
    """
    calls, metrics = Calls(service.limits), metrics or RequestMetrics()
    metrics.watch(calls, service)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        calls.close()
        service.close()

    app = FastAPI(
        title="cmim-hf",
        version=__version__,
        description="Embeddings, generation and search of molecules by cMIM.",
        docs_url=None,  # whose scripts come from the internet; the page /api is ours
        redoc_url=None,
        lifespan=lifespan,
        max_body_size=_most_bytes(service),
    )
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_middleware(_Around, metrics=metrics)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)

    for work in (
        molmim_routes.embedding,
        molmim_routes.hidden,
        molmim_routes.decode,
        molmim_routes.sampling,
    ):
        _add(app, calls, service, f"/{work.__name__}", work, molmim_routes.WORDS, "MolMIM")
    generate = molmim_routes.generate
    _add(app, calls, service, "/generate", generate, molmim_routes.WORDS, "MolMIM", long=True)
    for work in (
        routes.embeddings,
        routes.latents,
        routes.decode,
        routes.reconstruct,
        routes.sample,
        routes.sample_around,
        routes.interpolate,
        routes.predict,
        routes.neighbors,
        routes.properties,
    ):
        _add(app, calls, service, f"/v1/{work.__name__}", work, routes.WORDS, "cMIM")
    _add_others(app, calls, service, metrics)
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    return app


def _add(
    app: FastAPI,
    calls: Calls,
    service: Service,
    path: str,
    work: Callable[..., Any],
    words: Mapping[str, str],
    tag: str,
    **how: Any,
) -> None:
    """Answer a path by a function of the service, a call and a body."""

    async def endpoint(request: Request, body: Any) -> Response:
        return await calls.answer(request, partial(work, service, body=body), words, **how)

    endpoint.__annotations__["body"] = get_type_hints(work)["body"]
    app.post(
        path,
        name=path,
        summary=path,
        description=work.__doc__,
        tags=[tag],
        response_class=JSONResponse,
    )(endpoint)


def _add_others(app: FastAPI, calls: Calls, service: Service, metrics: RequestMetrics) -> None:
    """What is no POST of JSON for JSON."""

    @app.get("/v1/health/ready", tags=["MolMIM"])
    async def ready() -> dict[str, str]:
        """Whether requests are answered."""
        return {"status": "ready"}

    @app.get("/v1/info", tags=["cMIM"], description=routes.info.__doc__)
    async def info() -> dict[str, Any]:
        return routes.info(service)

    @app.get("/v1/draw", tags=["cMIM"], description=routes.draw.__doc__)
    async def draw(
        request: Request,
        smiles: str,
        width: Annotated[int, Query(ge=40, le=1000)] = 240,
        height: Annotated[int, Query(ge=40, le=1000)] = 180,
    ) -> Response:
        response = await calls.answer(
            request,
            lambda call: routes.draw(service, smiles, width, height),
            routes.WORDS,
            media_type="image/svg+xml",
        )
        if response.status_code == 200:
            response.headers["Cache-Control"] = "max-age=86400"
        return response

    @app.post("/v1/optimize", tags=["cMIM"], description=routes.optimize.__doc__)
    async def optimize(request: Request, body: routes.requests.ToOptimize) -> Response:
        if body.stream:
            work = lambda call, emit: routes.optimize(service, call, body, emit)  # noqa: E731
            return await calls.stream(request, work, routes.WORDS)
        work = partial(routes.optimize, service, body=body)
        return await calls.answer(request, work, routes.WORDS, long=True)

    sdf = {"media_type": "chemical/x-mdl-sdfile"}
    _add(app, calls, service, "/v1/sdf", routes.sdf, routes.WORDS, "cMIM", **sdf)

    @app.get("/metrics", include_in_schema=False)
    async def read_metrics() -> Response:
        return Response(metrics.text(), media_type=metrics.media_type)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html")

    @app.get("/api", include_in_schema=False)
    async def api() -> Response:
        return FileResponse(PAGE / "api.html")


def _most_bytes(service: Service) -> int:
    """Of a body: as many molecules or codes as a request may hold."""
    code = service.model.config.num_latents * service.model.config.latent_size
    row = max(service.limits.characters, _NUMBER_CHARACTERS * code)
    return 65_536 + service.limits.rows * row


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    """The first errors of a body, without what was given: it may be large, or no JSON."""
    errors = [
        {"type": one["type"], "loc": list(one["loc"])[:8], "msg": _message(one)}
        for one in error.errors()[:_ERRORS_SHOWN]
    ]
    return JSONResponse({"detail": errors}, 422)


def _message(error: Mapping[str, Any]) -> str:
    more = error.get("ctx", {}).get("error") if error["type"] == "json_invalid" else None
    return error["msg"] if more is None else f"{error['msg']}: {more}"


class _Around:
    """Counts and times requests, waits so long for a body, and says what a browser may load."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status = 500

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", b"default-src 'self'; img-src 'self' data: blob:"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        with self._metrics.request(scope, lambda: status):
            await self._app(scope, _in_time(receive), marked)


def _in_time(receive: Receive) -> Receive:
    """`receive`, with a limit of the time until the whole body is there."""
    whole, end = False, asyncio.get_running_loop().time() + _BODY_SECONDS

    async def timed() -> Message:
        nonlocal whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout_at(end):
                message = await receive()
        except TimeoutError:
            raise HTTPException(408, f"The body did not come in {_BODY_SECONDS:g} s.") from None
        whole = not message.get("more_body", False)
        return message

    return timed
