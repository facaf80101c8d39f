FROM python:3.12-slim AS build
WORKDIR /src
# Nothing is installed that is not in these files: every version, by the hashes of its files.
COPY requirements.lock requirements-build.lock ./
RUN python -m venv /opt/proxy \
    && /opt/proxy/bin/pip install --no-cache-dir --require-hashes -r requirements.lock \
    && pip install --no-cache-dir --require-hashes -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY proxy proxy
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/proxy/bin/pip install --no-index --no-deps dist/*.whl

FROM python:3.12-slim
COPY --from=build /opt/proxy /opt/proxy
ENV PATH=/opt/proxy/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /etc/anthropic-version-proxy
COPY config config
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f\"http://127.0.0.1:{os.environ.get('PORT', 8080)}/-/healthy\", timeout=2)"]
ENTRYPOINT ["anthropic-version-proxy"]
CMD ["serve", "--host", "0.0.0.0"]
