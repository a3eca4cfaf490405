/** The server's events over a WebSocket that connects again, later and later. */

import { eventsAddress } from "./client";
import type { ServerEvent } from "./types";

export type Connection = "connecting" | "open" | "lost" | "refused";

const FIRST_DELAY = 300;
const LONGEST_DELAY = 5000;
const PING = 20_000; // keeps tunnels and proxies from closing a silent connection

export interface Events {
  close(): void;
}

export function watch(
  session: string,
  onEvent: (event: ServerEvent) => void,
  onConnection: (state: Connection) => void,
): Events {
  let socket: WebSocket | null = null;
  let delay = FIRST_DELAY;
  let timer = 0;
  let closed = false;
  const ping = window.setInterval(() => {
    if (socket?.readyState === WebSocket.OPEN) socket.send('{"type": "ping"}');
  }, PING);

  function open(): void {
    socket = new WebSocket(eventsAddress(session));
    socket.onopen = () => {
      delay = FIRST_DELAY;
      onConnection("open");
    };
    socket.onmessage = (message) => onEvent(JSON.parse(message.data as string) as ServerEvent);
    socket.onclose = (event) => {
      if (closed) return;
      if (event.code === 4404) return onEvent({ type: "deleted", session });
      if (event.code === 4401 || event.code === 4403) return onConnection("refused");
      onConnection("lost");
      timer = window.setTimeout(open, delay);
      delay = Math.min(2 * delay, LONGEST_DELAY);
    };
  }

  onConnection("connecting");
  open();
  return {
    close() {
      closed = true;
      window.clearTimeout(timer);
      window.clearInterval(ping);
      socket?.close();
    },
  };
}
