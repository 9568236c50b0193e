# One image for every process of ours; docker-compose.yml says which one a container runs.

# Stage 1: the locked dependencies in a virtual environment. Hashes are required, so an index cannot slip anything in.
FROM python:3.13-slim AS build
WORKDIR /app
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH
# The lock first: this layer is built anew only when a dependency changes.
# requirements-dask.lock has the extra `dask`, too.
ARG LOCK=requirements.lock
COPY ${LOCK} ./
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r ${LOCK}
COPY pyproject.toml README.md LICENSE ./
COPY jobs jobs
COPY infra infra
COPY service service
COPY api api
COPY consumers consumers
COPY cli cli
COPY migrations migrations
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable .

# Stage 2: no compiler, no pip cache, no root.
FROM python:3.13-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin posthaste
COPY --from=build /venv /venv
COPY --from=build /app /app
WORKDIR /app
# Logs as JSON for machines; 0.0.0.0 inside the container only: the compose file publishes on loopback.
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    POSTHASTE_HOST=0.0.0.0 \
    POSTHASTE_LOG_FORMAT=json
USER 10001
EXPOSE 9006
# Exec form, and `posthaste` replaces itself by the process it starts: SIGTERM reaches it, and it finishes what it has begun.
ENTRYPOINT ["posthaste"]
CMD ["api"]
