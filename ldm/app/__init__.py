"""The editor in the browser: a server that owns one model, and the page that it serves."""

from ldm.util.lazy import lazy_exports

_HOMES = {
    "Editor": "ldm.app.editor",
    "create_app": "ldm.app.server",
    "serve": "ldm.app.launch",
    "show": "ldm.app.notebook",
}
__all__ = sorted(_HOMES)
__getattr__ = lazy_exports(__name__, _HOMES)
