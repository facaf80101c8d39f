"""The endpoints under ``/-/``.

admin           health, metrics, and the door to all others
counted         responses that are limited in number
page            the ledger and its page
play            one exchange to look at
playground      requests to try out
"""
