"""The page as it is added to the application."""

from fastapi import FastAPI

from orchestrator.api.problems import Shown
from orchestrator.page import changes, refusals, routes
from orchestrator.page.rendering import Pages
from orchestrator.settings import Settings


def add(app: FastAPI, settings: Settings) -> Shown:
    """Add the page's routes, with all that they are made with; what makes a page of a problem document."""
    app.state.pages = Pages(settings)
    app.router.routes.extend((*routes.router.routes, *changes.router.routes))
    return refusals.shown
