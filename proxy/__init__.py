"""anthropic-version-proxy keeps clients of old versions of the Anthropic API working.

Each version of the API is described by its changes from the version before. A request is translated
through these changes, version by version, from the one that its client speaks to one that the
upstream speaks; the response is translated back through the same changes in reverse order.

    client ──ASGI──> guard ─> routing ─> translation.request ─> upstream ──HTTP──> API
    client <─ASGI── relay <──────────────── translation.feed <─ upstream <─HTTP── API

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

The rooms, as modules are called here. Each imports only from those before it, which
tests/test_layers.py checks:

pure: nothing waits, logs, or uses a clock or a network
    redaction                               hides what looks like a key
    errors, fields, identity, hosts         failures, header fields, who a client is, our own names
    jsontext, sse                           JSON and server-sent events as bytes
    nudges                                  announces a version's end; brown-outs
    change, versions                        what a version change is, and all of them
    runs, translation                       the changes of one exchange, in both directions

the configuration
    yamlnodes, yamltext, readers, config    YAML to immutable values, problems with line and column
    schema, summary                         the same for editors, and for people

one exchange
    resemblance, routing                    its route, in whatever way servers may read its path
    negotiation, explain                    its versions, and what a request would become
    guard, interruption, offload            which heads are let in, interruption, work in threads
    observe, logs                           its record, and the log line made of it
    sharedmetrics, metrics                  the metrics made of it, summed over processes
    exchanges, client, keepalive            those under way, the client's side of one, pings
    sockets, daemonthread, lookup, alarm    TCP options, threads that may block, host names, timers
    coding, answer, http1, pool, upstream   the upstream's side
    spans, tracing                          OpenTelemetry, if it is configured
    tally, ledger                           who needs the proxy: counted,
    ledgerfile, journal, report             kept in a file, printed
    streaming, relay                        where client, upstream and translation meet

the application and its processes
    learning                                what upstreams say of their models
    counted, page, play, playground, admin  the endpoints under /-/
    app                                     the ASGI application, made of all these
    sandbox_rules, sandbox_wire, sandbox    a stand-in for today's API
    terms, budget, flow, patience           limits and deadlines of clients, back-pressure
    response, protocol                      the server's side of one client connection
    terminal                                the standard streams
    listeners, process, reload              sockets, limits of the process, a changed configuration
    server, worker, supervisor              one process; one of several; the one that manages them
    probe, demo                             the health check, a demonstration of both wires
    arguments, cli, __main__                the command line
"""
