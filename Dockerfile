# Two services, one file: docker build --target gateway . (the default) or --target upstream

FROM python:3.13-slim AS build-upstream
COPY upstream/requirements.txt /build/
RUN python -m venv --without-pip /venv \
    && pip --python /venv/bin/python install --require-hashes -r /build/requirements.txt

FROM python:3.13-slim AS build-gateway
COPY requirements /build/requirements/
# What compiles is left behind, with setuptools and mypy. Debian's own Python, as a base image, has its headers apart.
# The locks hold every package by hash, setuptools included: it builds what is published as source only.
RUN python -m venv --without-pip /venv \
    && pip --python /venv/bin/python install --require-hashes -r /build/requirements/build.lock \
    && pip --python /venv/bin/python install --require-hashes --no-build-isolation -r /build/requirements/runtime.lock \
    && pip --python /venv/bin/python uninstall --yes setuptools \
    && python -m venv --without-pip /compile \
    && pip --python /compile/bin/python install --require-hashes -r /build/requirements/compile.lock \
    && apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && { [ -e "$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] \
        || apt-get install --yes --no-install-recommends libpython3-dev; }
COPY . /build/
RUN cd /build && GATEWAY_COMPILE=1 /compile/bin/python setup.py --quiet bdist_wheel --dist-dir /wheel \
    && pip --python /venv/bin/python install --no-deps /wheel/*.whl

FROM python:3.13-slim AS base
# What runs has no installer to be turned against it: pip goes, and ensurepip, which could bring it back.
RUN for module in pip ensurepip; do rm -r "$(python -c "import $module; print($module.__path__[0])")"; done \
    && rm -f /usr/local/bin/pip* /usr/bin/pip* \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin app \
    && install --directory --owner=app --group=app /data
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 GATEWAY_STORE=sqlite:////data/blacklist.sqlite3
USER 10001:10001

FROM base AS upstream
COPY --from=build-upstream /venv /venv
COPY upstream /app/upstream/
WORKDIR /app
CMD ["python", "-m", "upstream", "--host", "0.0.0.0"]

FROM base AS gateway
LABEL org.opencontainers.image.title="jwt-blacklist-gateway" \
    org.opencontainers.image.description="A gateway that makes stateless JWTs revocable" \
    org.opencontainers.image.licenses="MIT"
COPY --from=build-gateway /venv /venv
VOLUME /data
# Alive: who restarts what is unhealthy must not do so for want of the store. The compose files ask whether it is ready.
HEALTHCHECK --interval=5s --timeout=3s CMD ["python", "-c", "import http.client as h, os; c = h.HTTPConnection('127.0.0.1', int(os.environ.get('GATEWAY_PORT') or 35000), timeout=2); c.request('GET', '/-/live'); raise SystemExit(c.getresponse().status != 200)"]
CMD ["gateway", "serve"]
