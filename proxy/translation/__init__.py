"""The version changes of one exchange, applied in both directions.

runs            deltas of a stream that are alike, translated together
stream          a streamed response
translation     the request, and every other response
"""
