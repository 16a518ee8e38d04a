"""gunicorn's settings, all from service.config."""

from service.config import Settings

_settings = Settings.from_environment()

_host = f"[{_settings.host}]" if ":" in _settings.host else _settings.host  # IPv6
bind = f"{_host}:{_settings.port}"
workers = _settings.workers
worker_class = "service.worker.Worker"
graceful_timeout = _settings.graceful_timeout_seconds
timeout = 30
keepalive = 75
backlog = 2048
proc_name = "pgteller"
control_socket_disable = True
loglevel = "warning" if _settings.log_level == "info" else _settings.log_level
