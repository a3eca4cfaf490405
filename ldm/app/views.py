"""Sessions, nodes and pictures as the interface tells them (docs/app_api.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ldm.app import graphs
from ldm.app.errors import NotFound
from ldm.app.jobs import Job
from ldm.app.pictures import describe
from ldm.app.store import Node, Session, Store
from ldm.graph.scene_graph import SceneGraph

PLAIN = (
    "sentences",
    "operations",
    "options",
    "n",
    "sweep",
    "region_share",
    "verdict",
    "seconds",
)  # told as they are kept
PICTURES = ("style", "mask", "region")  # kept as ids


def session(session: Session, store: Store, jobs: Sequence[Job]) -> dict[str, Any]:
    """A session with its whole tree, and its jobs that wait or run."""
    current = session.node(session.current)
    return {
        "id": session.id,
        "title": session.title,
        "created": session.created,
        "updated": session.updated,
        "current": session.current,
        "can_undo": current.parent is not None,
        "can_redo": current.last_child is not None,
        "nodes": [node(each, store) for each in session.nodes],
        "jobs": [job.to_json() for job in jobs],
    }


def session_in_list(session: Session, edits: int) -> dict[str, Any]:
    """A session in the list of all."""
    (current,) = session.nodes
    return {
        "id": session.id,
        "title": session.title,
        "created": session.created,
        "updated": session.updated,
        "edits": edits,
        "image": describe(current.picture, current.size),
    }


def node(node: Node, store: Store) -> dict[str, Any]:
    """A node with links to its pictures."""
    details = node.details
    told = {
        "id": node.id,
        "session": node.session,
        "parent": node.parent,
        "kind": node.kind,
        "created": node.created,
        "image": describe(node.picture, node.size),
        "size": {"width": node.size[0], "height": node.size[1]},
        "graph": node.graph and graphs.to_json(SceneGraph.from_json(node.graph)),
        "draft": node.draft,
        "job": node.job,
        "difference": details.get("difference", ""),
    }
    told |= {key: details.get(key) for key in PLAIN}
    told |= {key: picture(details.get(key), store) for key in PICTURES}
    maps = [
        {"object": each["object"], "image": picture(each["picture"], store)} for each in details.get("attention", [])
    ]
    return told | {"sentences": told["sentences"] or [], "attention": maps}


def picture(id: str | None, store: Store) -> dict | None:
    """A picture by its id; None for none, and for one that is gone."""
    if id is None:
        return None
    try:
        return describe(id, store.picture_size(id))
    except NotFound:
        return None
