"""anthropic-version-proxy keeps clients of old versions of the Anthropic API working.

Each version of the API is described by its changes from the version before. A request is translated
through these changes, version by version, from the one that its client speaks to one that the
upstream speaks; the response is translated back through the same changes in reverse order.

    client ──ASGI──> guard ─> routing ─> translation.request ─> upstream ──HTTP──> API
    client <─ASGI── relay <────────────── translation.stream <─ upstream <─HTTP── API

Terms:

client          who calls us
upstream        the API that we call
exchange        one request of a client and the response to it
route           the methods and paths that one upstream serves, and how
version change  one difference between two neighbouring versions of the API
bridge          the version change that serves a retired endpoint by one that still exists
translation     the version changes that apply to one exchange
call            a request as version changes see it
event           one server-sent event as version changes see it
snapshot        one event of 2023-01-01: the whole text so far
pass through    be forwarded unchanged, byte for byte
ledger          who still needs the proxy, for what, and since when

The rooms, from the lowest up. Each imports only from those listed before it, and so do the modules
of a package, which lists them; tests/test_layers.py checks it.

    core            errors, header fields, JSON, events; what a version change is
    formats         Completions and Messages, as several version changes read and make them
    bridge          what the bridge is made of
    versions        the version changes: the history of the API
    translation     those of one exchange, applied in both directions
    runtime         the event loop, threads and sockets
    config          YAML to immutable values, problems with line and column
    upstream        the upstream's side: connections, calls and answers
    observe         log, metrics and traces
    ledger          who still needs the proxy
    exchange        one exchange from its head to its end
    admin           the endpoints under /-/
    app             the ASGI application, made of all these
    sandbox         a stand-in for today's API
    connection      HTTP/1.1 as a server speaks it
    server          the processes that serve clients
    probe           the health check
    cli             the command line
    __main__        the same, as python -m proxy

Nothing waits, logs, or uses a clock or a network before runtime.
"""
