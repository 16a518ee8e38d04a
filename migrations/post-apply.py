"""Loads sql/ after the migrations, at every install."""

from yoyo import step

from service.migrate import load_sql

step(load_sql)
