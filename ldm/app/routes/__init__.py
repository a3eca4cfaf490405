"""The routes of the interface (docs/app_api.md), each module a part of it."""
