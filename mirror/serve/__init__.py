"""Serve: one web app with the page, `/metrics`, `/healthz` and `/readyz`.

Mount it behind your own sign-in::

    from mirror.serve import app

    routes = [Mount("/mirror", app(authorize=authorize))]

`mirror serve` runs it on the loopback address. Needs the extra `serve`.
"""

from mirror.serve.admission import Authorize, Level
from mirror.serve.application import app

__all__ = ["Authorize", "Level", "app"]
