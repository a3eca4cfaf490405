"""The WebSocket that tells a browser what happens in its session."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from starlette.concurrency import run_in_threadpool

from ldm.app.editor import Editor
from ldm.app.errors import NotFound
from ldm.app.events import Subscriber
from ldm.app.routes.application import PROTOCOL

NO_SESSION, TOO_SLOW = 4404, 1013

router = APIRouter()


@router.websocket("/events")
async def events(socket: WebSocket, session: str = "") -> None:
    editor: Editor = socket.app.state.editor
    await socket.accept()
    subscriber = editor.hub.subscribe(session)  # before the state is read, so that nothing is missed
    try:
        told = await run_in_threadpool(editor.session_json, session)
        await socket.send_json({"type": "hello", "protocol": PROTOCOL, "session": told})
        sending = asyncio.create_task(_send(socket, subscriber))
        receiving = asyncio.create_task(_receive(socket, subscriber))
        _, others = await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        for task in (sending, receiving):
            with suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError):
                await task
    except NotFound:
        await socket.close(NO_SESSION)
    except WebSocketDisconnect:
        pass
    finally:
        editor.hub.unsubscribe(subscriber)


async def _send(socket: WebSocket, subscriber: Subscriber) -> None:
    while True:
        event = await subscriber.next()
        if subscriber.overrun:
            await socket.close(TOO_SLOW)
            return
        await socket.send_text(json.dumps(event))
        if event["type"] == "deleted":
            await socket.close()
            return


async def _receive(socket: WebSocket, subscriber: Subscriber) -> None:
    while True:
        text = await socket.receive_text()
        if len(text) < 100 and '"ping"' in text:
            subscriber.put({"type": "pong"})
