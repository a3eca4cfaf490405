"""Events from the worker's thread to the browsers that watch a session."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import dataclass, field

MOST_WAITING = 500  # events for one browser; beyond, it reads too slowly and is to connect again
LATEST_ONLY = ("progress", "preview")  # a later one makes an earlier one superfluous


@dataclass(eq=False)
class Subscriber:
    """A browser that watches a session. `overrun`: it missed events."""

    session: str
    loop: asyncio.AbstractEventLoop
    events: deque[dict] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    overrun: bool = False

    def put(self, event: dict) -> None:
        """Adds an event; in the loop's thread."""
        if event["type"] in LATEST_ONLY:
            for index in range(len(self.events) - 1, -1, -1):
                earlier = self.events[index]
                if earlier["type"] == event["type"] and earlier["job"] == event["job"]:
                    del self.events[index]
                    break
        self.events.append(event)
        self.overrun = self.overrun or len(self.events) > MOST_WAITING
        self.arrived.set()

    async def next(self) -> dict:
        """The next event, once there is one."""
        while not self.events:
            self.arrived.clear()
            await self.arrived.wait()
        return self.events.popleft()


class Hub:
    """Hands each event to all browsers that watch its session. May be called from any thread."""

    def __init__(self):
        self._lock = threading.Lock()
        self._subscribers: list[Subscriber] = []

    def subscribe(self, session: str) -> Subscriber:
        """A subscriber whose events arrive in the running loop."""
        subscriber = Subscriber(session, asyncio.get_running_loop())
        with self._lock:
            self._subscribers.append(subscriber)
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        with self._lock:
            self._subscribers.remove(subscriber)

    def publish(self, session: str, event: dict) -> None:
        """Sends an event to all who watch the session."""
        with self._lock:
            receivers = [each for each in self._subscribers if each.session == session]
        for each in receivers:
            if not each.loop.is_closed():
                each.loop.call_soon_threadsafe(each.put, event)
