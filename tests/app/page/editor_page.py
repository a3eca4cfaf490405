"""What a person does on the page, in the words of the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page
    from served import Server


class EditorPage:
    """The page in one browser.

    Args:
        page: Playwright's page.
        server: that it talks to.
        complaints: errors that the page has logged so far.
    """

    def __init__(self, page: Page, server: Server, complaints: list[str]):
        self.page, self.server, self.complaints = page, server, complaints

    # Reading ----------------------------------------------------------------------------------------------------------

    @property
    def session(self) -> dict:
        """The open session as the server has it."""
        identity = self.page.url.split("#")[1]
        status, session = self.server.ask("GET", f"api/sessions/{identity}")
        assert status == 200, session
        return session

    @property
    def node(self) -> dict:
        """The current node as the server has it."""
        session = self.session
        return next(node for node in session["nodes"] if node["id"] == session["current"])

    def button(self, name: str, exact: bool = True) -> Locator:
        return self.page.get_by_role("button", name=name, exact=exact)

    def box(self, name: str) -> Locator:
        """The box of an object on the picture, by a part of its words."""
        return self.page.locator(f'.overlay .box[aria-label^="{name}"]')

    def node_shape(self, name: str) -> Locator:
        """An object in the graph."""
        return self.page.locator(f'.node [role="button"][aria-label^="{name}"]')

    def see_plan(self, words: str) -> None:
        """Waits until the plan says these words."""
        self.page.locator(".plan", has_text=words).wait_for()

    def see_node(self, node: dict) -> None:
        """Waits until this node of the history is the current one."""
        number = sum(other["id"] < node["id"] for other in self.session["nodes"])
        self.page.locator(f'.tree-node button[aria-current=true][title^="#{number} "]').wait_for()

    # Doing ------------------------------------------------------------------------------------------------------------

    def open_example(self, number: int = 0) -> None:
        self.page.locator(".tile").nth(number).click()
        self.page.locator(".overlay .box").first.wait_for()

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the picture, given in shares of its size, is on the screen."""
        frame = self.page.locator(".frame").bounding_box()
        return frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 5) -> None:
        """Drags from one place of the screen to another."""
        mouse = self.page.mouse
        mouse.move(*start)
        mouse.down()
        mouse.move(*end, steps=steps)
        mouse.up()

    def drag_on_picture(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.drag(self.point(*start), self.point(*end))

    def select(self, name: str) -> None:
        self.node_shape(name).click()

    def relate(self, subject: str, predicate: str, object_: str) -> None:
        """Draws an edge from the dot of one node to another node, and chooses the predicate."""
        self.select(subject)
        port = self.page.locator(".node.selected .port .reach").bounding_box()
        target = self.node_shape(object_).bounding_box()
        middle = target["x"] + target["width"] / 2, target["y"] + target["height"] / 2
        self.drag((port["x"] + port["width"] / 2, port["y"] + port["height"] / 2), middle)
        self.page.locator(".predicates").get_by_role("button", name=predicate, exact=True).click()

    def edit(self) -> dict:
        """Presses Edit and waits for the result, which becomes the current node."""
        places = self.page.locator(".tree-node")
        known = places.count()
        self.page.locator(".edit-bar .primary:not(:disabled)").click()
        places.nth(known).wait_for(state="attached")
        self.page.locator(".progress").wait_for(state="detached")
        self.page.locator(".tree-node button[aria-current=true] img").wait_for(state="attached")
        return self.node
