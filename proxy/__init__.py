"""anthropic-version-proxy keeps clients of old versions of the Anthropic API working.

A request climbs the ladder of versions from the one its client speaks to one that the upstream
speaks; the response comes back down the same rungs.

    client ──ASGI──> guard ─> routing ─> translation.request ─> upstream ──HTTP──> API
    client <─ASGI── relay <──────────────── translation.feed <─ upstream <─HTTP── API

The words:

client          who calls us
upstream        the API that we call
exchange        one request and its response
route           a method and path, and the upstream that serves them
version change  one difference between two neighbouring versions of the API
bridge          the version change that serves a retired endpoint through a living one
translation     all changes that one exchange takes
call            a request as version changes see it
event           one server-sent event as version changes see it
snapshot        one event of 2023-01-01: the whole text so far
pass through    unchanged, byte for byte
ledger          who still needs the proxy, for what, and since when

The rooms; each imports only from those before it, which tests/test_layers.py holds:

pure: nothing waits, logs, or uses a clock or a network
    redaction                               what looks like a key is hidden
    errors, fields, identity, hosts         failures, header fields, who a client is, our own names
    jsontext, sse                           JSON and server-sent events as bytes
    nudges                                  announcements and rehearsals of a version's end
    change, versions                        what a version change is, and all there are
    runs, translation                       the changes of one exchange, both ways

the configuration
    yamlnodes, yamltext, readers, config    YAML into frozen values, each problem at its place
    schema, summary                         the same for editors, and for people

one exchange
    resemblance, routing                    its route, however a server may read its path
    negotiation, explain                    its versions, and what it would become
    guard, interruption, offload            what is let in, how it is cut, what leaves the loop
    observe, logs                           its record, and the log line made of it
    sharedmetrics, metrics                  the metrics made of it, of several processes
    exchanges, client, keepalive            those under way, and the client's side of one
    sockets, daemonthread, lookup, alarm    TCP options, threads that may block, host names, timers
    coding, answer, http1, pool, upstream   the upstream's side
    spans, tracing                          OpenTelemetry, where it is asked for
    tally, ledger                           who needs the proxy: counted,
    ledgerfile, journal, report             kept in a file, printed
    streaming, relay                        where client, upstream and translation meet

the application and its processes
    learning                                what upstreams say of their models
    counted, page, play, playground, admin  what is under /-/
    app                                     the rooms put together
    sandbox_rules, sandbox_wire, sandbox    the stand-in for today's API
    terms, budget, flow, patience           limits and deadlines of clients, back-pressure
    response, protocol                      the server's side of one client connection
    terminal                                the standard streams
    listeners, process, reload              sockets, limits of the process, a changed configuration
    server, worker, supervisor              one process; one of several; the one above them
    probe, demo                             the health check, both wires to look at
    arguments, cli, __main__                the command line
"""
