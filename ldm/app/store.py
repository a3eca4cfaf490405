"""Sessions: trees of pictures with their graphs, kept in SQLite and a folder of pictures.

Undo, redo and going on from an older picture move `current`; nothing is lost by that. Every change is one transaction, and a
picture is on disk before a node refers to it, so that a killed server loses at most the edit that it was making.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ldm.app.database import Database, now, read_token
from ldm.app.errors import NotFound, NotNow
from ldm.app.pictures import Pictures

UNUSED_FOR = 24 * 3600.0  # seconds after which an upload that no session took is deleted
ROOTS = ("photograph", "canvas")
TITLE_LENGTH = 200


@dataclass(frozen=True)
class Node:
    """A picture of a session, or an empty canvas.

    Args:
        parent: the node that it was made from; None for a root.
        kind: photograph, canvas, edit or sample.
        picture: None for a canvas.
        size: width and height in pixels.
        graph: what the picture shows, as JSON; None where nothing is known.
        draft: an edited graph that was left unfinished.
        last_child: where redo leads.
        job: the request that made it; nodes of one job are variants of each other.
        details: how it was made, as `ldm.app.views` tells it.
    """

    id: int
    session: str
    parent: int | None
    kind: str
    created: str
    picture: str | None
    size: tuple[int, int]
    graph: dict | None
    draft: dict | None
    last_child: int | None
    job: int | None
    details: dict


@dataclass(frozen=True)
class NewNode:
    """A node before it is in the tree; fields are those of `Node`. `uses` are further pictures that it refers to."""

    kind: str
    size: tuple[int, int]
    picture: str | None = None
    graph: dict | None = None
    job: int | None = None
    details: dict = field(default_factory=dict)
    uses: Collection[str] = ()


@dataclass(frozen=True)
class Session:
    """A tree of nodes, and the one that the user is at."""

    id: str
    title: str
    created: str
    updated: str
    current: int
    nodes: tuple[Node, ...]

    def node(self, id: int) -> Node:
        """A node of this session. Raises NotFound."""
        for node in self.nodes:
            if node.id == id:
                return node
        raise NotFound(f"this session has no node {id}; it may have been deleted").coded("no_node")

    def following(self, id: int) -> set[int]:
        """The node and all that follows from it."""
        found = {id}
        for node in self.nodes:  # parents come before their children
            if node.parent in found:
                found.add(node.id)
        return found


class Store:
    """All sessions of a folder.

    Args:
        folder: with sessions.sqlite, the token, and the folder of pictures; made if it does not exist.

    Raises:
        UserError: another server uses the folder, or its files are damaged.
    """

    def __init__(self, folder: Path):
        self.database = Database(folder)
        self.pictures = Pictures(folder / "pictures")
        self.token = read_token(folder)
        self.folder = folder
        self._delete_unused()

    def close(self) -> None:
        self.database.close()

    # Pictures ---------------------------------------------------------------------------------------------------------

    def add_picture(self, image: Image.Image) -> str:
        """Keeps a picture and returns its id."""
        id = self.pictures.add(image)
        with self.database.transaction() as connection:
            values = id, image.width, image.height, now()
            connection.execute(
                "INSERT INTO pictures VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET added = excluded.added", values
            )
        return id

    def picture_size(self, id: str) -> tuple[int, int]:
        """Width and height. Raises NotFound."""
        with self.database.transaction() as connection:
            row = connection.execute("SELECT width, height FROM pictures WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise NotFound("there is no such picture; upload it again").coded("no_picture")
        return row["width"], row["height"]

    # Sessions ---------------------------------------------------------------------------------------------------------

    def list_sessions(self) -> list[tuple[Session, int]]:
        """All sessions, the latest first, each with its current node only, and the number of its edits."""
        with self.database.transaction() as connection:
            rows = connection.execute(
                "SELECT s.*, (SELECT COUNT(*) - 1 FROM nodes WHERE session = s.id) AS edits FROM sessions s "
                "ORDER BY updated DESC, rowid DESC"
            ).fetchall()
            return [(_session(row, [self.node(row["current"])]), row["edits"]) for row in rows]

    def session(self, id: str) -> Session:
        """A session with all its nodes. Raises NotFound."""
        with self.database.transaction() as connection:
            row = connection.execute("SELECT * FROM sessions WHERE id = ?", (id,)).fetchone()
            if row is None:
                raise NotFound("there is no such session; it may have been deleted").coded("no_session")
            nodes = connection.execute("SELECT * FROM nodes WHERE session = ? ORDER BY id", (id,)).fetchall()
        return _session(row, map(_node, nodes))

    def new_session(self, title: str, root: NewNode) -> Session:
        """A session with its root, which becomes current."""
        id, time = secrets.token_hex(8), now()
        with self.database.transaction() as connection:
            connection.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, NULL)", (id, _as_title(title), time, time))
            node = self.add_node(id, None, root)
            connection.execute("UPDATE sessions SET current = ? WHERE id = ?", (node, id))
        return self.session(id)

    def rename(self, id: str, title: str) -> None:
        """Gives a session another title."""
        with self.database.transaction() as connection:
            connection.execute("UPDATE sessions SET title = ? WHERE id = ?", (_as_title(title), id))

    def delete_session(self, id: str) -> None:
        """Deletes a session, and the pictures that only it has. Raises NotFound."""
        with self.database.transaction() as connection:
            self.session(id)
            used = [
                row[0]
                for row in connection.execute(
                    "SELECT DISTINCT uses.picture FROM uses JOIN nodes ON nodes.id = uses.node WHERE session = ?", (id,)
                )
            ]
            connection.execute("DELETE FROM sessions WHERE id = ?", (id,))
            self._delete_pictures(used)

    # The tree ---------------------------------------------------------------------------------------------------------

    def node(self, id: int) -> Node:
        """A node of any session. Raises NotFound."""
        with self.database.transaction() as connection:
            row = connection.execute("SELECT * FROM nodes WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise NotFound(f"there is no node {id}; it may have been deleted").coded("no_node")
        return _node(row)

    def add_node(self, session: str, parent: int | None, new: NewNode) -> int:
        """Adds a node to the tree and returns its id; `current` stays where it is."""
        uses = {*new.uses, *([new.picture] if new.picture else [])}
        with self.database.transaction() as connection:
            values = (session, parent, new.kind, now(), new.picture, *new.size, _dump(new.graph), new.job)
            cursor = connection.execute(
                "INSERT INTO nodes (session, parent, kind, created, picture, width, height, graph, job, details) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*values, json.dumps(new.details)),
            )
            node = cursor.lastrowid
            assert node is not None
            connection.executemany("INSERT INTO uses VALUES (?, ?)", [(node, picture) for picture in uses])
            self._touch(session)
        return node

    def go_to(self, session: str, node: int) -> None:
        """Makes a node current, and the target of redo from everything above it. Raises NotFound."""
        with self.database.transaction() as connection:
            tree = self.session(session)
            step = tree.node(node)
            connection.execute("UPDATE sessions SET current = ? WHERE id = ?", (node, session))
            while step.parent is not None:
                connection.execute("UPDATE nodes SET last_child = ? WHERE id = ?", (step.id, step.parent))
                step = tree.node(step.parent)
            self._touch(session)

    def undo(self, session: str) -> None:
        """Goes to the parent. Raises NotNow at the root."""
        with self.database.transaction():
            tree = self.session(session)
            parent = tree.node(tree.current).parent
            if parent is None:
                raise NotNow("there is nothing to undo: this is where the session began").coded("nothing_to_undo")
            self.go_to(session, parent)

    def redo(self, session: str) -> None:
        """Goes to the child that was left last. Raises NotNow without one."""
        with self.database.transaction():
            tree = self.session(session)
            child = tree.node(tree.current).last_child
            if child is None:
                raise NotNow("there is nothing to redo: no edit was made from here").coded("nothing_to_redo")
            self.go_to(session, child)

    def set_graph(self, node: int, graph: dict | None) -> None:
        """What a node's picture shows; its draft is dropped."""
        with self.database.transaction() as connection:
            connection.execute("UPDATE nodes SET graph = ?, draft = NULL WHERE id = ?", (_dump(graph), node))
            self._touch(self.node(node).session)

    def set_draft(self, node: int, graph: dict | None) -> None:
        """Keeps an unfinished edited graph. Raises NotFound."""
        with self.database.transaction() as connection:
            self.node(node)
            connection.execute("UPDATE nodes SET draft = ? WHERE id = ?", (_dump(graph), node))

    def set_details(self, node: int, details: dict, uses: Iterable[str] = ()) -> None:
        """Replaces what is known of how a node was made. `uses`: further pictures that it refers to."""
        with self.database.transaction() as connection:
            connection.execute("UPDATE nodes SET details = ? WHERE id = ?", (json.dumps(details), node))
            connection.executemany("INSERT OR IGNORE INTO uses VALUES (?, ?)", [(node, picture) for picture in uses])

    def delete_node(self, node: int) -> None:
        """Deletes a node with all that follows from it. Raises NotFound, or NotNow for a root."""
        with self.database.transaction() as connection:
            removed = self.node(node)
            if removed.parent is None:
                raise NotNow("this is where the session began; delete the session instead").coded(
                    "delete_session_instead"
                )
            tree = self.session(removed.session)
            gone = tree.following(node)
            if tree.current in gone:
                self.go_to(tree.id, removed.parent)
            marks = ", ".join("?" * len(gone))
            used = connection.execute(f"SELECT DISTINCT picture FROM uses WHERE node IN ({marks})", (*gone,)).fetchall()
            connection.execute(f"UPDATE nodes SET last_child = NULL WHERE last_child IN ({marks})", (*gone,))
            connection.execute("DELETE FROM nodes WHERE id = ?", (node,))
            self._delete_pictures([row[0] for row in used])
            self._touch(tree.id)

    # Clearing up ------------------------------------------------------------------------------------------------------

    def _delete_unused(self) -> None:
        """Deletes uploads that no session took for some time."""
        with self.database.transaction() as connection:
            rows = connection.execute("SELECT id FROM pictures WHERE added < ?", (now(UNUSED_FOR),)).fetchall()
            self._delete_pictures([row["id"] for row in rows])

    def _delete_pictures(self, candidates: Iterable[str]) -> None:
        """Deletes those that no node and no waiting job refers to."""
        with self.database.transaction() as connection:
            waiting = " ".join(
                row[0] for row in connection.execute("SELECT request FROM jobs WHERE state IN ('queued', 'running')")
            )
            for id in candidates:
                if connection.execute("SELECT 1 FROM uses WHERE picture = ?", (id,)).fetchone() or id in waiting:
                    continue
                connection.execute("DELETE FROM pictures WHERE id = ?", (id,))
                self.pictures.delete(id)

    def _touch(self, session: str) -> None:
        with self.database.transaction() as connection:
            connection.execute("UPDATE sessions SET updated = ? WHERE id = ?", (now(), session))


def _session(row: Any, nodes: Iterable[Node]) -> Session:
    return Session(row["id"], row["title"], row["created"], row["updated"], row["current"], tuple(nodes))


def _node(row: Any) -> Node:
    return Node(
        id=row["id"],
        session=row["session"],
        parent=row["parent"],
        kind=row["kind"],
        created=row["created"],
        picture=row["picture"],
        size=(row["width"], row["height"]),
        graph=_load(row["graph"]),
        draft=_load(row["draft"]),
        last_child=row["last_child"],
        job=row["job"],
        details=json.loads(row["details"]),
    )


def _as_title(title: str) -> str:
    return " ".join(title.split())[:TITLE_LENGTH] or "untitled"


def _dump(graph: dict | None) -> str | None:
    return None if graph is None else json.dumps(graph)


def _load(text: str | None) -> Any:
    return None if text is None else json.loads(text)
