"""Composition root of a worker: settings, logging, pool, application."""

import logging

import structlog

from service.app import App, create_app
from service.config import Settings
from service.db import Pool


def create_asgi_app() -> App:
    """Build the application from the environment; gunicorn calls this in each worker."""
    settings = Settings.from_environment()
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    return create_app(Pool(settings), settings)
