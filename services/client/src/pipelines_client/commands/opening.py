"""`pipelines open`: the platform's page and Prefect's in the browser."""

import threading
import webbrowser

from pipelines_client.documents import Addresses
from pipelines_client.errors import Misused
from pipelines_client.place import PREFECT_URL, Found, Wanted
from pipelines_client.screen import Screen

API = "/api/pipelines"


def show(wanted: Wanted, screen: Screen, *, which: str | None, browse: bool) -> None:
    """The addresses, and the two pages in the browser, or `which`. A way into the cluster lasts until Ctrl-C."""
    with Found(wanted=wanted, say=screen.note).place() as place:
        told = Addresses(page=f"{place.url}/", api=f"{place.url}{API}", prefect=place.prefect_url)
        pages = {"page": told.page, "api": told.api, "prefect": told.prefect}
        if which == "prefect" and told.prefect is None:
            raise Misused("where Prefect's page is cannot be told from the API's address", hint=f"set {PREFECT_URL}")
        text = "\n".join(f"{name:<8} {url}" for name, url in pages.items() if url)
        screen.show(told, lambda: screen.line(text))
        for name, url in pages.items():
            chosen = name == which or (which is None and name != "api")
            if browse and url and chosen and not webbrowser.open(url):
                screen.note(f"no browser could be opened here: open {url}")
        if place.forwarded and browse:
            screen.note("Ctrl-C closes the way into the cluster")
            threading.Event().wait()
