# Two images: the exporter's, which is built by default, and with --target demo one of
# the experiments that come with the checkout.
#
#   docker build -t episight-exporter .
#   docker build -t episight-demo --target demo .
#
# What is copied keeps its modes, which in somebody's checkout may be for its owner only:
# files that are run as they are, and not installed, are made readable.

FROM docker.io/library/python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE CHANGELOG.md DESIGN.md ./
COPY conf/exporter.yaml conf/
COPY hydra_plugins hydra_plugins
COPY experiment_hooks experiment_hooks
COPY exporter exporter
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .
# Environments without pip: what is not there needs no updates.
RUN python -m venv --without-pip /opt/episight \
    && pip --python /opt/episight/bin/python install --no-cache-dir \
        "$(echo /wheels/episight-*.whl)[exporter]"

FROM build AS build-demo
RUN python -m venv --without-pip /opt/demo \
    && pip --python /opt/demo/bin/python install --no-cache-dir \
        "$(echo /wheels/episight-*.whl)[experiments]"
WORKDIR /app
COPY experiments experiments
COPY conf conf
RUN chmod -R go+rX .

FROM docker.io/library/python:3.13-slim AS base
# A fixed number, so that volumes stay readable; it is no user of the host's.
RUN groupadd --gid 5555 episight \
    && useradd --uid 5555 --gid 5555 --no-create-home --home-dir /tmp episight
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

FROM base AS demo
COPY --from=build-demo /opt/demo /opt/demo
COPY --from=build-demo /app /app
WORKDIR /app
# A container's first process does not hear SIGTERM unless it asks to.
ENV PATH=/opt/demo/bin:$PATH EPISIGHT_SPOOL_DIR=/tmp/spool EPISIGHT_SIGTERM=1
USER 5555:5555
ENTRYPOINT ["python", "-m", "experiments"]

FROM base AS exporter
COPY --from=build /opt/episight /opt/episight
COPY --chmod=0444 deploy/first_start.py /opt/episight/first_start.py
# A new named volume takes the owner of the folder on which it is mounted.
RUN install -d -o 5555 -g 5555 -m 0700 /data && install -d -o 5555 -g 5555 /secrets
WORKDIR /
# Journal and token are in the volume /data; nothing else is ever written. Nobody reaches
# a container's loopback: whoever starts this says what it listens to, and to whom.
ENV PATH=/opt/episight/bin:$PATH EPISIGHT_JOURNAL_PATH=/data/journal.sqlite
USER 5555:5555
VOLUME /data
EXPOSE 8000 5555
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=6 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:%s/-/healthy' % os.environ.get('EPISIGHT_WEB_PORT', 8000), timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "exporter"]
