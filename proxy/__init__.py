"""anthropic-version-proxy keeps clients of old versions of the Anthropic API working.

A request climbs the ladder of versions from the one its client speaks to one that the upstream
speaks; the response comes back down the same rungs.

    client ──ASGI──> guard ─> routing ─> translation.request ─> upstream ──HTTP──> API
    client <─ASGI── relay <──────────────── translation.feed <─ upstream <─HTTP── API

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
"""
