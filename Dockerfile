# The base is pinned by digest. To update it, take the digest that `docker pull python:3.12-slim`
# prints, and the tag that belongs to it; then update both lock files, and audit them:
#
#   pip-audit --strict --disable-pip --require-hashes -r requirements.lock -r requirements-build.lock
#
# Without --strict it passes what it knows nothing of.
FROM python:3.12.15-slim-trixie@sha256:29113dcae7aad06daa8e95260fa09f27d62be33b9687ea3774f771d601a02256 AS python

FROM python AS build
WORKDIR /src
# Only what these files list is installed, in these versions, with these hashes.
COPY requirements.lock requirements-build.lock ./
RUN python -m venv --without-pip /opt/proxy \
    && pip --python /opt/proxy install --no-cache-dir --require-hashes -r requirements.lock \
    && pip install --no-cache-dir --require-hashes -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY proxy proxy
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /opt/proxy install --no-cache-dir --no-index --no-deps dist/*.whl

FROM python
LABEL org.opencontainers.image.title="anthropic-version-proxy" \
      org.opencontainers.image.description="Keeps clients of old Anthropic API versions working, unchanged, against the API of today." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT"
# Nothing more is installed: the base's pip is only one more program to have faults.
RUN pip uninstall --yes --root-user-action=ignore pip
COPY --from=build /opt/proxy /opt/proxy
ENV PATH=/opt/proxy/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# `serve` reads config/proxy.yaml here: mount your own over it.
WORKDIR /etc/anthropic-version-proxy
COPY config/*.yaml config/
# For the ledger: a new named volume takes its owner from this folder.
RUN install -d -o 10001 -g 10001 /var/lib/proxy
# A number, as checks for a user other than root need it; no other user has it.
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["python", "-I", "-m", "proxy.probe"]
ENTRYPOINT ["anthropic-version-proxy"]
CMD ["serve", "--host", "0.0.0.0"]
