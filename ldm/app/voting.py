"""The server of a vote: one page on which people compare two pictures, blinded, behind the same guard as the editor."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Literal

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import FileResponse

from ldm.app.ballots import RATER_LENGTH, Ballots
from ldm.app.database import lock_folder, read_token
from ldm.app.launch import GRACE, bind, tunnel, url
from ldm.app.routes.parts import Body
from ldm.app.security import Guard, Hosts
from ldm.app.server import add_error_handlers, add_static_files

PAGE = "votes.html"

router = APIRouter(prefix="/api")


def _ballots(request: Request) -> Ballots:
    return request.app.state.ballots


TheBallots = Annotated[Ballots, Depends(_ballots)]


class Vote(Body):
    rater: str
    pair: str
    choice: Literal["left", "tie", "right"] | None


@router.get("/pairs")
def pairs(ballots: TheBallots, rater: str) -> dict:
    return {"pairs": ballots.of_rater(rater)}


@router.post("/votes")
def vote(ballots: TheBallots, body: Vote) -> dict:
    ballots.vote(body.rater, body.pair, body.choice)
    return {}


@router.get("/vote")
def about(ballots: TheBallots) -> dict:
    return {"pairs": len(ballots.pairs), "rater_length": RATER_LENGTH}


@router.get("/pairs/{pair}/{side}.png")
def picture(ballots: TheBallots, pair: str, side: str) -> Response:
    return FileResponse(ballots.picture(pair, side), media_type="image/png")


def create_voting_app(ballots: Ballots, token: str, host: str = "127.0.0.1") -> Guard:
    """The ASGI application of a vote.

    Args:
        ballots: the pairs and the votes.
        token: that every request for data needs.
        host: that the server binds to, which decides under which names it may be asked.
    """
    app = FastAPI(title="Vote", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.ballots = ballots
    app.include_router(router)
    add_static_files(app, PAGE)
    add_error_handlers(app)
    return Guard(app, token, Hosts.of(host))


def serve_vote(
    ballots: Ballots,
    host: str = "127.0.0.1",
    port: int | None = None,
    announce: Callable[[str], None] = print,
) -> None:
    """Serves a vote and says where it is, until Ctrl-C. The token is kept beside the votes, so that addresses stay valid.

    Raises:
        UserError: the address cannot be used, or another server has the folder.
    """
    lock = lock_folder(ballots.path.parent, "another server keeps votes there; open its page, or end it")
    bound = bind(host, port)
    token, number = read_token(ballots.path.parent), bound.getsockname()[1]
    config = uvicorn.Config(
        create_voting_app(ballots, token, host),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    announce(f"The vote is open: {url(host, number, token)}")
    announce(f"From another machine: {tunnel(number)}")
    announce(f"Votes are kept in {ballots.path}; Ctrl-C stops the server.")
    try:
        with suppress(KeyboardInterrupt):  # uvicorn raises it again after it has stopped
            uvicorn.Server(config).run(sockets=[bound])
    finally:
        bound.close()
        lock.close()
