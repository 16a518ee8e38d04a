"""Composition root of a worker: settings, pool, application. The worker has set up the log."""

from service.app import App, create_app
from service.config import Settings
from service.db import Pool


def create_asgi_app() -> App:
    """Build the application from the environment; gunicorn calls this in each worker."""
    settings = Settings.from_environment()
    return create_app(Pool(settings), settings)
