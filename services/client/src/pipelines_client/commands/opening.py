"""`pipelines open`: the API and Prefect's page in the browser."""

import threading
import webbrowser

from pipelines_client.documents import Addresses
from pipelines_client.errors import Misused
from pipelines_client.place import PREFECT_URL, Found, Wanted
from pipelines_client.screen import Screen

PAGE = "/api/pipelines"


def show(wanted: Wanted, screen: Screen, *, which: str | None, browse: bool) -> None:
    """The addresses, and a page of the browser for each. One that leads into the cluster does so until Ctrl-C."""
    with Found(wanted=wanted, say=screen.note).place() as place:
        told = Addresses(api=f"{place.url}{PAGE}", prefect=place.prefect_url)
        pages = {"api": told.api, "prefect": told.prefect}
        if which == "prefect" and told.prefect is None:
            raise Misused("where Prefect's page is cannot be told from the API's address", hint=f"set {PREFECT_URL}")
        text = "\n".join(f"{name:<8} {url}" for name, url in pages.items() if url)
        screen.show(told, lambda: screen.line(text))
        for name, url in pages.items():
            if browse and url and which in {None, name} and not webbrowser.open(url):
                screen.note(f"no browser could be opened here: open {url}")
        if place.forwarded and browse:
            screen.note("Ctrl-C closes the way into the cluster")
            threading.Event().wait()
